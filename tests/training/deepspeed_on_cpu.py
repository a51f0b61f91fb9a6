"""train_lm.py under DeepSpeed without its compiled communication, which a test would wait minutes for."""

import sys

import deepspeed

import train_lm
from slm.config import run_command
from slm.training.config import TrainConfig

if __name__ == "__main__":
    deepspeed.ops.__compatible_ops__["deepspeed_shm_comm"] = False
    sys.argv[0] = "train_lm.py"
    run_command(train_lm.main, TrainConfig)

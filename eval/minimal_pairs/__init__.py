"""Minimal pairs and a training corpus from neural TTS, with no network: `python -m eval.minimal_pairs --out DIR`.

See the README beside this file for what they are and are not.
"""

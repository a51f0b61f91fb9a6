"""What is done with a corpus once it is made: `python -m slm.corpus check|stats|merge|select|push`."""

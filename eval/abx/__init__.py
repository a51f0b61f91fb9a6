"""ABX: are two recordings of one sound closer to each other than to another sound, as a tokenizer's units have them?

The definition is that of libri-light (arXiv 1912.07875, `eval/ABX_src`), on which the ZeroSpeech challenges rest.
"""

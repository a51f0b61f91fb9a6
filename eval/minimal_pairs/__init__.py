"""Minimal pairs and a training corpus from text-to-speech, with no network: `python -m eval.minimal_pairs --out DIR`.

Two ways lead to a plan of what is said. The closed world of English that the quickstart uses (see the README beside
this file): `grammar`, `phonology`, `lexical`, `syntactic`, put together by `dataset`. Any lexicon, grammar and voices:
`lexicon`, `vocabulary`, `syllables`, `pseudowords`, `wordpairs`, `templates`, `sentences`, `matching`, put together by
`benchmark`. Both share the voices (`engines`), what a pair is (`utterance`), how pairs are balanced (`balance`), the
corpus (`corpus`), and how all is spoken and written (`synthesis`, `gold`).
"""

"""Networks of the tokenizers, in torch. Imported inside functions only: the registry does not scan this package."""

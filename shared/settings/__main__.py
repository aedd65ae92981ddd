"""`python -m shared.settings` prints deploy/settings.md."""

from shared.settings import table

print("# Settings\n\nGenerated from `shared/settings/*_settings.py` by `python -m shared.settings`.\n")
print(table())

"""The small house that tests of the server ask: `tools/storm.py` makes it, once a process."""
import storm

HOUSE = storm.small()
MODEL, TOKENIZER, BOUNDS, app, alone = HOUSE.model, HOUSE.tokenizer, HOUSE.bounds, HOUSE.app, HOUSE.alone

"""Talks to the inventory."""
import json
from urllib.request import urlopen

TIMEOUT = 5


class Client(Base):
    """Asks the inventory for parts, one request at a time."""

    def __init__(self, url):
        self.url = url

    @retry(times=3)
    @traced
    def part(self, number):
        """Return the part with this number.

        Raises KeyError if there is none, and OSError if the inventory does not answer in time.
        """
        with urlopen(f"{self.url}/parts/{number}", timeout=TIMEOUT) as answer:
            found = json.load(answer)
        if not found:
            raise KeyError(number)
        return found


# Counts what a shelf holds; broken parts are not counted, and neither are those that are lent to somebody.
async def count(shelf):
    total = 0
    async for part in shelf:
        if not part.broken and part.lent_to is None:
            total += part.pieces
    return total

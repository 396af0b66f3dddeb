"""The function ``slug``: a text as it may stand in an address, ``"Crème brûlée!"`` → ``"creme-brulee"``."""

import re
import unicodedata
from typing import Any, List

from ekuiper import Context, Function


class SlugFunction(Function):
    def validate(self, args: List[Any]) -> str:
        if len(args) != 1:
            return "slug takes one argument, found {}".format(len(args))
        return ""

    def exec(self, args: List[Any], ctx: Context) -> Any:
        if args[0] is None:
            return None
        plain = unicodedata.normalize("NFKD", str(args[0])).encode("ascii", "ignore").decode()
        return re.sub(r"[^a-z0-9]+", "-", plain.lower()).strip("-")

    def is_aggregate(self) -> bool:
        return False

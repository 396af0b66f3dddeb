"""The plugin in a host that lives in the test: python -m unittest."""

import pathlib
import tempfile
import unittest

from main import plugin
from mangrove import Error
from mangrove.testing import Host


class Symbols(unittest.TestCase):
    def test_numbers_become_lines(self) -> None:
        with tempfile.TemporaryDirectory() as folder, Host(plugin) as host:
            path = pathlib.Path(folder, "lines")
            source = host.source("{{symbol}}_numbers", {"interval": 0, "count": 2})
            sink = host.sink("{{symbol}}_lines", {"path": str(path)})
            for row in source.take(2):
                sink.send([row])
            sink.stop()
            self.assertEqual(path.read_text(), '[{"n": 1}]\n[{"n": 2}]\n')

    def test_texts_are_shouted(self) -> None:
        with Host(plugin) as host:
            shout = host.function("{{symbol}}_shout")
            self.assertEqual(shout.call("hello"), "HELLO")
            with self.assertRaises(Error):
                shout.call(7)
            with self.assertRaises(Error):
                shout.validate()


if __name__ == "__main__":
    unittest.main()

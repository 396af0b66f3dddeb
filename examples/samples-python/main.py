"""The plugin samples-python: one symbol for each thing that the SDK does."""

from counter import Counter
from functions import Echo, fail, slow, tally, total
from keep import Keep

from mangrove import Plugin

plugin = Plugin("samples-python")
plugin.add_source("counter_python", Counter)
plugin.add_sink("keep_python", Keep)
plugin.add_function("echo_python", Echo)
plugin.add_function("slow_python", slow)
plugin.add_function("fail_python", fail)
plugin.add_function("total_python", total, aggregate=True)
plugin.add_function("tally_python", tally)

if __name__ == "__main__":
    plugin.run()

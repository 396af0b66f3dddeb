"""The plugin pysam: a source, a sink and a function on the published ``ekuiper`` package."""

from ekuiper import PluginConfig, plugin

from pycount import CountSource
from pyfile import FileSink
from slug import SlugFunction

if __name__ == "__main__":
    plugin.start(
        PluginConfig(
            "pysam",
            {"pycount": CountSource},
            {"pyfile": FileSink},
            {"slug": SlugFunction},
        )
    )

// Package mangrove is the Go SDK for plugins of Mangrove, a streaming rule host. A plugin is a program of its own that
// holds any number of symbols: sources bring data in, sinks take results out, functions are called inside SQL.
//
//	func main() {
//		plugin := mangrove.New("megaphone")
//		mangrove.AddSource(plugin, "ticker", openTicker)
//		mangrove.AddSink(plugin, "print", openPrint)
//		plugin.AddFunction("shout", shout)
//		plugin.Main()
//	}
//
// The package connects to the host, batches, acknowledges, measures and shuts down; a symbol only does its work:
//
//   - A symbol's context ends when the symbol has to: for a source when it is stopped, for a call when nobody waits for
//     its result any more, for a sink when what it was handed can't be finished.
//   - An error or a panic in a symbol is an error of that source, result or call; the others go on. A panic in a
//     goroutine that the symbol itself started ends the process, as everywhere in Go.
//   - When the connection to the host breaks, every use of a symbol is dropped, and the host starts them again.
//
// Package mangrovetest has a host for tests, without a process or a socket.
package mangrove

// Samples-go has every kind of symbol, each small enough to read at once.
package main

import mangrove "mangrove.invalid/sdk/go"

func main() { plugin().Main() }

func plugin() *mangrove.Plugin {
	p := mangrove.New("samples-go")
	mangrove.AddSource(p, "counter_go", openCounter)
	mangrove.AddSink(p, "keep_go", openKeep)
	p.AddFunction("echo_go", echo, mangrove.Validate(oneArgument))
	p.AddFunction("slow_go", slow)
	p.AddFunction("fail_go", fail)
	p.AddFunction("total_go", total, mangrove.Aggregate())
	p.AddFunction("tally_go", tally)
	return p
}

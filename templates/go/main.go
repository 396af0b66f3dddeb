// The plugin {{name}}: a source, a sink and a function.
package main

import mangrove "mangrove.invalid/sdk/go"

func main() { plugin().Main() }

func plugin() *mangrove.Plugin {
	p := mangrove.New("{{name}}")
	mangrove.AddSource(p, "{{symbol}}_numbers", openNumbers)
	mangrove.AddSink(p, "{{symbol}}_lines", openLines)
	p.AddFunction("{{symbol}}_shout", shout, mangrove.Validate(oneArgument))
	return p
}

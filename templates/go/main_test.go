package main

import (
	"os"
	"path/filepath"
	"testing"

	"mangrove.invalid/sdk/go/mangrovetest"
)

func TestNumbersBecomeLines(t *testing.T) {
	host := mangrovetest.Start(t, plugin())
	config := map[string]any{"interval": 0, "count": 2}
	source, err := host.Source("{{symbol}}_numbers", mangrovetest.Use{Config: config})
	if err != nil {
		t.Fatal(err)
	}
	path := filepath.Join(t.TempDir(), "lines")
	sink, err := host.Sink("{{symbol}}_lines", mangrovetest.Use{Config: map[string]any{"path": path}})
	if err != nil {
		t.Fatal(err)
	}
	for range 2 {
		event, err := source.Next()
		if err != nil {
			t.Fatal(err)
		}
		var row number
		if err := event.Decode(&row); err != nil {
			t.Fatal(err)
		}
		if err := sink.Collect([]number{row}); err != nil {
			t.Fatal(err)
		}
	}
	if _, err := sink.Stop(); err != nil {
		t.Fatal(err)
	}
	if kept, _ := os.ReadFile(path); string(kept) != "[{\"n\":1}]\n[{\"n\":2}]\n" {
		t.Errorf("the file has %q", kept)
	}
}

func TestTextsAreShouted(t *testing.T) {
	host := mangrovetest.Start(t, plugin())
	if value, err := host.Call("rule1", "{{symbol}}_shout", "hello"); err != nil || string(value) != `"HELLO"` {
		t.Errorf("%s, %v", value, err)
	}
	if _, err := host.Call("rule1", "{{symbol}}_shout", 7); err == nil {
		t.Error("a number was shouted")
	}
	if err := host.Validate("{{symbol}}_shout"); err == nil {
		t.Error("no argument was accepted")
	}
}

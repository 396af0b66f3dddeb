package main

import (
	"encoding/json"
	"errors"
	"io"
	"os"
	"path/filepath"
	"testing"

	"mangrove.invalid/sdk/go/mangrovetest"
)

func TestTheCounterCountsReportsAndEnds(t *testing.T) {
	host := mangrovetest.Start(t, plugin())
	source, err := host.Source("counter_go", mangrovetest.Use{
		Config:     map[string]any{"count": 5, "size": 3, "fail_at": 4},
		DataSource: "topic",
		Offset:     2,
	})
	if err != nil {
		t.Fatal(err)
	}
	for _, want := range []int{3, 4, 5} {
		event, err := source.Next()
		if err != nil {
			t.Fatal(err)
		}
		var tuple counted
		if err := event.Decode(&tuple); want == 4 {
			if err == nil || err.Error() != "told to fail at 4" {
				t.Fatalf("%v instead of the error", err)
			}
			continue
		} else if err != nil {
			t.Fatal(err)
		}
		if tuple != (counted{want, os.Getpid(), "xxx"}) || string(event.Meta) != `{"source":"topic"}` {
			t.Fatalf("%+v, meta %s", tuple, event.Meta)
		}
	}
	if _, err := source.Next(); !errors.Is(err, io.EOF) {
		t.Fatalf("%v instead of the end", err)
	}
}

func TestAWrongConfigurationIsAnError(t *testing.T) {
	host := mangrovetest.Start(t, plugin())
	for _, config := range []any{map[string]any{"count": "many"}, map[string]any{"count": -1}} {
		if _, err := host.Source("counter_go", mangrovetest.Use{Config: config}); err == nil {
			t.Errorf("%v was accepted", config)
		}
	}
}

func TestKeepWritesLinesAndFailsWhenTold(t *testing.T) {
	host := mangrovetest.Start(t, plugin())
	path := filepath.Join(t.TempDir(), "kept.jsonl")
	sink, err := host.Sink("keep_go", mangrovetest.Use{Config: map[string]any{"path": path, "fail": "bad"}})
	if err != nil {
		t.Fatal(err)
	}
	row := func(text string) any { return []any{map[string]string{"a": text}} }
	if err := sink.Collect(row("ä"), row("bad"), row("c")); err == nil || err.Error() != "result 1: told to fail" {
		t.Fatal(err)
	}
	if _, err := sink.Stop(); err != nil {
		t.Fatal(err)
	}
	kept, _ := os.ReadFile(path)
	if string(kept) != `[{"a":"ä"}]`+"\n"+`[{"a":"c"}]`+"\n" {
		t.Fatalf("kept %q", kept)
	}
}

func TestTheFunctions(t *testing.T) {
	host := mangrovetest.Start(t, plugin())
	for _, c := range []struct {
		symbol string
		args   []any
		want   string
	}{
		{"echo_go", []any{map[string]any{"ü": []int{1}}}, `{"ü":[1]}`},
		{"echo_go", []any{nil}, `null`},
		{"slow_go", []any{1, "x"}, `"x"`},
		{"fail_go", []any{"no"}, `error: no`},
		{"fail_go", []any{"panic"}, `error: panic: told to panic`},
		{"total_go", []any{[]any{1, 2.5, nil, "x"}}, `3.5`},
		{"tally_go", []any{"k"}, `1`},
		{"tally_go", []any{"k"}, `2`},
	} {
		value, err := host.Call("rule1", c.symbol, c.args...)
		if err != nil {
			value = json.RawMessage("error: " + err.Error())
		}
		if string(value) != c.want {
			t.Errorf("%s(%v) is %s, expected %s", c.symbol, c.args, value, c.want)
		}
	}
	if err := host.Validate("echo_go"); err == nil || err.Error() != "echo takes 1 argument" {
		t.Errorf("%v", err)
	}
	if err := host.Validate("echo_go", "a.b"); err != nil {
		t.Error(err)
	}
}

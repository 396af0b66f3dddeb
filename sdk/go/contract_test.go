package mangrove_test

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"reflect"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	mangrove "mangrove.invalid/sdk/go"
	"mangrove.invalid/sdk/go/internal/sp"
)

type sourceFunc func(ctx context.Context, out *mangrove.Output) error

func (f sourceFunc) Run(ctx context.Context, out *mangrove.Output) error { return f(ctx, out) }

type sinkFunc func(ctx context.Context, result mangrove.Result) error

func (f sinkFunc) Collect(ctx context.Context, result mangrove.Result) error { return f(ctx, result) }

func withSource(run sourceFunc) *mangrove.Plugin {
	p := mangrove.New("car")
	mangrove.AddSource(p, "source", func(context.Context, *mangrove.Use, struct{}) (mangrove.Source, error) { return run, nil })
	return p
}

func withSink(collect sinkFunc) *mangrove.Plugin {
	p := mangrove.New("car")
	mangrove.AddSink(p, "sink", func(context.Context, *mangrove.Use, struct{}) (mangrove.Sink, error) { return collect, nil })
	return p
}

func withFunction(exec func(ctx context.Context, call *mangrove.Call) (any, error)) *mangrove.Plugin {
	p := mangrove.New("car")
	p.AddFunction("function", exec)
	return p
}

func equal(t *testing.T, found, expected any) {
	t.Helper()
	if !reflect.DeepEqual(found, expected) {
		t.Fatalf("%v, expected %v", found, expected)
	}
}

func echo(_ context.Context, call *mangrove.Call) (any, error) {
	return mangrove.Arg[json.RawMessage](call, 0)
}

// endless sends n: 1, 2, … until it is stopped, tells what it sent last, and that it has sent many.
func endless(sent *atomic.Int64, many chan<- struct{}) sourceFunc {
	return func(ctx context.Context, out *mangrove.Output) error {
		for n := 1; ; n++ {
			if n == 3*batch && many != nil {
				close(many)
			}
			if err := out.Send(ctx, object{"n": n}); err != nil {
				return err
			}
			sent.Store(int64(n))
		}
	}
}

func TestHelloNamesVersionTokenAndSymbols(t *testing.T) {
	p := withSource(nil)
	p.AddFunction("rank", echo)
	p.AddFunction("all", echo, mangrove.Aggregate())
	s := run(t, p)
	hello := s.welcome()
	equal(t, hello["token"], "secret")
	equal(t, hello["plugin"], "car")
	equal(t, hello["versions"], []any{1.0})
	equal(t, hello["symbols"], object{"sources": []any{"source"}, "sinks": []any{},
		"functions": []any{object{"name": "all", "aggregate": true}, "rank"}})
	s.finish()
}

func TestARefusalEndsThePlugin(t *testing.T) {
	s := run(t, withSource(nil))
	s.control = s.listens.accept()
	s.next("hello")
	s.send(object{"type": "refused", "reason": "wrong token", "versions": []int{1}})
	var refused *mangrove.RefusedError
	if err := <-s.ended; !errors.As(err, &refused) || refused.Reason != "wrong token" {
		t.Fatal(err)
	}
}

func TestRequestsThatCannotBeMetAreAnswered(t *testing.T) {
	s := play(t, withSource(nil))
	s.send(object{"type": "news", "of": "later versions"})
	contains(t, s.ask(object{"type": "dance", "id": 1}), "error", "dance")
	contains(t, s.ask(object{"type": "start", "id": 2, "use": 1, "kind": "source", "symbol": "other"}), "error", "other")
	contains(t, s.ask(object{"type": "start", "id": 3, "use": 1, "kind": "dream", "symbol": "source"}), "error", "dream")
	contains(t, s.ask(object{"type": "start", "id": 4, "kind": "source", "symbol": "source"}), "error", "use")
	contains(t, s.ask(object{"type": "start", "id": 5, "use": 1, "kind": "source", "symbol": "source", "config": 7}), "error", "config")
	contains(t, s.ask(object{"type": "start", "id": 6, "use": 1, "kind": "source", "symbol": "source", "address": "ipc:///nowhere"}), "error", "nowhere")
	contains(t, s.ask(object{"type": "stop", "id": 7, "use": 9}), "error", "9")
	contains(t, s.ask(object{"type": "validate", "id": 8, "symbol": "none"}), "error", "none")
	equal(t, s.ask(object{"type": "ping", "id": 9})["error"], nil)
	s.finish()
}

func TestGarbageOnControlIsSurvivedUpToTenInARow(t *testing.T) {
	s := play(t, withFunction(echo))
	garbage := []string{"", "{", "null", "[1]", "\xff\xfe", `{"type":7}`, `{"type":"answer","id":99}`, `{"type":"stop"}`, strings.Repeat("[", 100_000)}
	for range 2 {
		for _, message := range garbage {
			s.raw(message)
		}
		equal(t, s.ask(object{"type": "ping", "id": 1})["error"], nil)
	}
	for range 10 {
		s.raw("garbage")
	}
	s.welcome()
	equal(t, s.ask(object{"type": "ping", "id": 1})["error"], nil)
	s.finish()
}

func TestASourceBatchesByItselfAndDrains(t *testing.T) {
	var sent atomic.Int64
	many := make(chan struct{})
	s := play(t, withSource(endless(&sent, many)))
	data := s.start("source", "source", nil)
	<-many
	s.send(object{"type": "stop", "id": 5, "use": 4, "timeout": 20000})
	seq, n := 0.0, 0.0
	for {
		encoded, err := data.Read()
		if err != nil {
			break
		}
		var message struct {
			Seq    float64
			Tuples []struct{ N float64 }
		}
		if err := json.Unmarshal(encoded, &message); err != nil {
			t.Fatal(err)
		}
		equal(t, message.Seq, seq+1)
		seq = message.Seq
		if len(message.Tuples) > batch {
			t.Fatalf("%d tuples in a batch", len(message.Tuples))
		}
		for _, tuple := range message.Tuples {
			equal(t, tuple.N, n+1)
			n = tuple.N
		}
	}
	equal(t, s.next("answer")["value"], object{"seq": seq})
	equal(t, int64(n), sent.Load())
	if n/seq < 10 {
		t.Fatalf("%v tuples in %v batches", n, seq)
	}
	s.finish()
}

func TestMetaOffsetErrorsAndTheEndKeepTheirOrder(t *testing.T) {
	gate := make(chan struct{})
	s := play(t, withSource(func(ctx context.Context, out *mangrove.Output) error {
		<-gate
		_ = out.SendTuple(ctx, mangrove.Tuple{Data: json.RawMessage(` {"ключ":"値"} `), Meta: object{"a": 1}, Offset: 7})
		<-gate
		_ = out.Report(ctx, errors.New("näh"))
		if out.Send(ctx, []int{1}) == nil || out.Send(ctx, json.RawMessage(`{`)) == nil || out.Send(ctx, func() {}) == nil {
			panic("wrong tuples are taken")
		}
		return errors.New("gone")
	}))
	data := s.start("source", "source", nil)
	gate <- struct{}{}
	equal(t, read(t, data), object{"seq": 1.0, "tuples": []any{object{"ключ": "値"}}, "meta": []any{object{"a": 1.0}}, "offset": 7.0})
	gate <- struct{}{}
	equal(t, read(t, data), object{"seq": 2.0, "error": "näh"})
	equal(t, read(t, data), object{"seq": 3.0, "end": true, "error": "gone"})
	equal(t, s.ask(object{"type": "stop", "id": 5, "use": 4, "timeout": 5000})["value"], object{"seq": 3.0})
	s.finish()
}

type committing struct {
	sourceFunc
	commits chan string
}

func (c committing) Commit(offset json.RawMessage) { c.commits <- string(offset) }

func TestOffsetsComeBackAndAreCommitted(t *testing.T) {
	p := mangrove.New("car")
	commits := make(chan string, 1)
	mangrove.AddSource(p, "source", func(_ context.Context, use *mangrove.Use, _ struct{}) (mangrove.Source, error) {
		var offset struct{ At int }
		found, err := use.Offset(&offset)
		if !found || err != nil || offset.At != 3 || use.DataSource != "tópico" {
			return nil, fmt.Errorf("%v %v %v %q", found, err, offset, use.DataSource)
		}
		return committing{func(ctx context.Context, out *mangrove.Output) error {
			_ = out.SendTuple(ctx, mangrove.Tuple{Data: object{}, Offset: object{"at": 4}})
			<-ctx.Done()
			return nil
		}, commits}, nil
	})
	s := play(t, p)
	data := s.start("source", "source", object{"offset": object{"at": 3}, "dataSource": "tópico"})
	read(t, data)
	s.send(object{"type": "commit", "use": 4, "seq": 1})
	equal(t, <-commits, `{"at":4}`)
	s.finish()
}

func TestAPanicOfASourceIsItsEnd(t *testing.T) {
	s := play(t, withSource(func(context.Context, *mangrove.Output) error { panic("oh") }))
	data := s.start("source", "source", nil)
	contains(t, read(t, data), "error", "oh")
	s.finish()
}

func TestAHangingSourceIsGivenUp(t *testing.T) {
	hang := make(chan struct{})
	defer close(hang)
	s := play(t, withSource(func(context.Context, *mangrove.Output) error { <-hang; return nil }))
	s.start("source", "source", nil)
	contains(t, s.ask(object{"type": "stop", "id": 5, "use": 4, "timeout": 50}), "error", "does not end")
	equal(t, s.ask(object{"type": "ping", "id": 6})["error"], nil)
}

func TestSixteenMebibytesGoBothWays(t *testing.T) {
	s := play(t, withFunction(echo))
	data := s.start("function", "function", nil)
	text := `"` + strings.Repeat("ä", 8<<20) + `"`
	sent := make(chan error, 1)
	go func() {
		sent <- data.Write([]byte(`{"context":{},"timeout":60000,"calls":[[1,[`), []byte(text), []byte(`]]]}`))
	}()
	reply, err := data.Read()
	if err := errors.Join(err, <-sent); err != nil || !bytes.Contains(reply, []byte(text)) {
		t.Fatalf("%d bytes came back, %v", len(reply), err)
	}
	s.finish()
}

func TestASinkAcknowledgesInOrderAndNamesWhatFailed(t *testing.T) {
	s := play(t, withSink(func(_ context.Context, result mangrove.Result) error {
		rows, err := mangrove.Rows[struct{ A string }](result)
		switch {
		case err != nil:
			return err
		case rows[0].A == "bad":
			return errors.New("bäd")
		case rows[0].A == "panic":
			panic("oh")
		}
		return nil
	}))
	data := s.start("sink", "sink", object{"ack": true})
	write(t, data, object{"seq": 1, "results": []any{[]any{object{"a": "good"}}, object{"a": "bad"}, object{"a": "panic"}}})
	equal(t, s.next("ack"), object{"type": "ack", "use": 4.0, "seq": 1.0, "errors": []any{[]any{1.0, "bäd"}, []any{2.0, "panic: oh"}}})
	write(t, data, object{"seq": 2, "results": []any{}})
	equal(t, s.next("ack"), object{"type": "ack", "use": 4.0, "seq": 2.0})
	s.finish()
}

func TestAFloodOfResultsIsCollectedBeforeTheStop(t *testing.T) {
	collected := 0
	s := play(t, withSink(func(context.Context, mangrove.Result) error { collected++; return nil }))
	data := s.start("sink", "sink", object{"ack": true})
	const batches = 100
	results := make([]any, 1000)
	for index := range results {
		results[index] = []any{object{"a": 1}}
	}
	go func() {
		for seq := 1; seq <= batches; seq++ {
			write(t, data, object{"seq": seq, "results": results})
		}
	}()
	s.send(object{"type": "stop", "id": 5, "use": 4, "timeout": 20000, "seq": batches})
	acks, last := 0, 0.0
	for {
		message := read(t, s.control)
		if message["type"] == "answer" {
			equal(t, message["error"], nil)
			break
		}
		if seq := message["seq"].(float64); seq > last {
			acks, last = acks+1, seq
		} else {
			t.Fatalf("ack of %v after %v", seq, last)
		}
	}
	equal(t, last, float64(batches))
	equal(t, collected, batches*1000)
	s.finish()
}

func TestGarbageOnSinkDataIsAnErrorOfTheUse(t *testing.T) {
	s := play(t, withSink(func(context.Context, mangrove.Result) error { return errors.New("no") }))
	data := s.start("sink", "sink", nil)
	for _, message := range []string{"", "[]", `{"results":[]}`, `{"seq":-1}`, `{"seq":1,"results":7}`, "\x00", strings.Repeat(`{"a":`, 100_000)} {
		if err := data.Write([]byte(message)); err != nil {
			t.Fatal(err)
		}
		contains(t, s.next("error"), "error", "sink data")
	}
	write(t, data, object{"seq": 1, "results": []any{object{}}})
	equal(t, s.next("error"), object{"type": "error", "use": 4.0, "error": "no"})
	s.finish()
}

func TestAShutdownStillCollectsWhatWasSent(t *testing.T) {
	hold, collected := make(chan struct{}), 0
	s := play(t, withSink(func(context.Context, mangrove.Result) error { <-hold; collected++; return nil }))
	data := s.start("sink", "sink", nil)
	for seq := 1; seq <= 3; seq++ {
		write(t, data, object{"seq": seq, "results": []any{object{}}})
	}
	s.send(object{"type": "shutdown", "timeout": 20000})
	close(hold)
	equal(t, <-s.ended, nil)
	equal(t, collected, 3)
}

func TestASinkThatHasNothingToReadFromEndsAtOnce(t *testing.T) {
	const late = 100 * patience / time.Millisecond
	ends := map[string]object{
		"shutdown":             {"type": "shutdown", "timeout": late},
		"stop, nothing to add": {"type": "stop", "id": 5, "use": 4, "timeout": late, "seq": 0},
	}
	for name, end := range ends {
		for _, noticed := range []bool{true, false} {
			t.Run(fmt.Sprintf("%s, noticed %v", name, noticed), func(t *testing.T) {
				s := play(t, withSink(func(context.Context, mangrove.Result) error { return nil }))
				data := listen(t, sp.Push)
				s.send(object{"type": "start", "id": 1, "use": 4, "kind": "sink", "symbol": "sink", "address": data.address,
					"ruleId": "rule1", "opId": "op", "instanceId": 0, "config": object{}})
				conn := data.accept()
				equal(t, s.next("answer")["error"], nil)
				conn.Close()
				if noticed {
					// It dials again, and is not greeted.
					again, err := data.listener.Accept()
					if err != nil {
						t.Fatal(err)
					}
					defer again.Close()
				}
				s.send(end)
				if end["type"] == "stop" {
					equal(t, s.next("answer")["error"], nil)
					s.finish()
					return
				}
				select {
				case err := <-s.ended:
					equal(t, err, nil)
				case <-time.After(patience):
					t.Fatal("the plugin waits for a connection that it does not need")
				}
			})
		}
	}
}

func TestASlowCallDoesNotHoldOthers(t *testing.T) {
	release, begun := make(chan struct{}), make(chan struct{})
	s := play(t, withFunction(func(ctx context.Context, call *mangrove.Call) (any, error) {
		text, err := mangrove.Arg[string](call, 0)
		switch text {
		case "slow":
			<-release
		case "cancelled":
			close(begun)
			<-ctx.Done()
			release <- struct{}{}
			return nil, ctx.Err()
		case "panic":
			panic("oh")
		}
		return text, err
	}))
	data := s.start("function", "function", nil)
	context := object{"ruleId": "rule1", "opId": "op", "instanceId": 0, "funcId": 0}
	write(t, data, object{"context": context, "timeout": 0, "calls": []any{[]any{1, []any{"slow"}}, []any{2, []any{"cancelled"}}}})
	write(t, data, object{"context": context, "timeout": 60000, "calls": []any{[]any{3, []any{"fast"}}}})
	equal(t, read(t, data)["results"], []any{[]any{3.0, "fast"}})
	write(t, data, object{"context": context, "timeout": 60000, "calls": []any{[]any{4, []any{"panic"}}}})
	equal(t, read(t, data)["errors"], []any{[]any{4.0, "panic: oh"}})
	<-begun // although the call in front of it in its message does not return
	write(t, data, object{"cancel": []int{2, 77}})
	equal(t, read(t, data)["results"], []any{[]any{1.0, "slow"}})
	s.finish()
}

func TestManyCallsAreInFlightTogether(t *testing.T) {
	const calls = 1000
	var waiting atomic.Int64
	all := make(chan struct{})
	s := play(t, withFunction(func(_ context.Context, call *mangrove.Call) (any, error) {
		if waiting.Add(1) == calls {
			close(all)
		}
		<-all
		return mangrove.Arg[int](call, 0)
	}))
	data := s.start("function", "function", nil)
	for id := 0; id < calls; id++ {
		write(t, data, object{"context": object{}, "timeout": 60000, "calls": []any{[]any{id, []any{id}}}})
	}
	for seen := 0; seen < calls; {
		for _, pair := range read(t, data)["results"].([]any) {
			equal(t, pair.([]any)[0], pair.([]any)[1])
			seen++
		}
	}
	s.finish()
}

func TestCallsThatNobodyWaitsForAreNotBegun(t *testing.T) {
	var made atomic.Int64
	p := withFunction(func(_ context.Context, call *mangrove.Call) (any, error) {
		made.Add(1)
		milliseconds, err := mangrove.Arg[int](call, 0)
		time.Sleep(time.Duration(milliseconds) * time.Millisecond)
		return milliseconds, err
	})
	p.CallLimit = 1
	s := play(t, p)
	data := s.start("function", "function", nil)
	calls := make([]any, 20)
	for id := range calls {
		calls[id] = []any{id, []any{300}}
	}
	write(t, data, object{"context": object{}, "timeout": 200, "calls": calls})
	write(t, data, object{"context": object{}, "timeout": 60000, "calls": []any{[]any{20, []any{0}}}})
	equal(t, read(t, data)["results"], []any{[]any{20.0, 0.0}})
	// The first is late already where this machine is busy.
	if count := made.Load(); count > 2 {
		t.Fatalf("%d calls were made", count)
	}
	s.finish()
}

func TestSlowCallsOfOneMessageRunTogether(t *testing.T) {
	var waiting atomic.Int64
	all := make(chan struct{})
	s := play(t, withFunction(func(context.Context, *mangrove.Call) (any, error) {
		if waiting.Add(1) == batch {
			close(all)
		}
		<-all
		return nil, nil
	}))
	data := s.start("function", "function", nil)
	calls := make([]any, batch)
	for id := range calls {
		calls[id] = []any{id, []any{}}
	}
	write(t, data, object{"context": object{}, "timeout": 60000, "calls": calls})
	for seen := 0; seen < batch; {
		seen += len(read(t, data)["results"].([]any))
	}
	s.finish()
}

func TestGarbageOnFunctionDataIsAnErrorOfTheUse(t *testing.T) {
	s := play(t, withFunction(echo))
	data := s.start("function", "function", nil)
	for _, message := range []string{"", "7", `{"calls":[[1]]}`, `{"calls":[["x",[]]]}`, `{"calls":[[1,{}]]}`, `{"cancel":"all"}`, "\xff"} {
		if err := data.Write([]byte(message)); err != nil {
			t.Fatal(err)
		}
		contains(t, s.next("error"), "error", "function data")
	}
	write(t, data, object{"calls": []any{[]any{1, []any{}}}})
	contains(t, object{"error": read(t, data)["errors"].([]any)[0].([]any)[1]}, "error", "argument 1")
	s.finish()
}

func TestValidationIsAskedForAndAnswered(t *testing.T) {
	p := mangrove.New("car")
	p.AddFunction("function", echo, mangrove.Validate(func(args []json.RawMessage) error {
		if len(args) == 0 {
			panic("oh")
		}
		if !bytes.Equal(args[0], []byte(`"ä.b"`)) {
			return fmt.Errorf("not %s", args[0])
		}
		return nil
	}))
	s := play(t, p)
	equal(t, s.ask(object{"type": "validate", "id": 1, "symbol": "function", "args": []any{"ä.b"}})["error"], nil)
	contains(t, s.ask(object{"type": "validate", "id": 2, "symbol": "function", "args": []any{7}}), "error", "not 7")
	contains(t, s.ask(object{"type": "validate", "id": 3, "symbol": "function", "args": []any{}}), "error", "oh")
	s.finish()
}

func TestStateLogsAndMetricsReachTheHost(t *testing.T) {
	p := mangrove.New("car")
	p.AddFunction("function", func(ctx context.Context, call *mangrove.Call) (any, error) {
		call.Logger().With("a", 1).WithGroup("g").Warn("careful", "b", errors.New("x"))
		call.Counter("calls").Add(2)
		call.Counter("calls").Add(3)
		if err := call.State().Put(ctx, "k", object{"ü": 1}); err == nil {
			return nil, errors.New("the host's error is lost")
		}
		return call.State().Add(ctx, "n", 2)
	})
	s := play(t, p)
	data := s.start("function", "function", nil)
	write(t, data, object{"context": object{"ruleId": "rule1"}, "timeout": 60000, "calls": []any{[]any{1, []any{}}}})
	log := s.next("log")
	equal(t, log["level"], "warn")
	equal(t, log["fields"], object{"a": 1.0, "g.b": "x", "ruleId": "rule1"})
	put := s.next("put")
	equal(t, put, object{"type": "put", "id": 1.0, "use": 4.0, "rule": "rule1", "key": "k", "value": object{"ü": 1.0}})
	s.send(object{"type": "answer", "id": 1, "error": "full"})
	metric := s.next("metric")
	equal(t, metric, object{"type": "metric", "use": 4.0, "name": "calls", "kind": "counter", "value": 5.0})
	s.send(object{"type": "answer", "id": 2, "value": 9})
	equal(t, read(t, data)["results"], []any{[]any{1.0, 9.0}})
	s.finish()
}

func TestABrokenControlConnectionDropsAllUsesAndComesBack(t *testing.T) {
	dropped := make(chan struct{}, 1)
	s := play(t, withSource(func(ctx context.Context, _ *mangrove.Output) error {
		<-ctx.Done()
		dropped <- struct{}{}
		return nil
	}))
	data := s.start("source", "source", nil)
	s.control.Close()
	<-dropped
	if _, err := data.Read(); err == nil || sp.IsTimeout(err) {
		t.Fatalf("the data channel is open after all: %v", err)
	}
	equal(t, s.welcome()["token"], "secret")
	s.start("source", "source", nil)
	s.finish()
}

func TestABrokenDataConnectionIsDialledAgain(t *testing.T) {
	var sent atomic.Int64
	s := play(t, withSource(endless(&sent, nil)))
	data := listen(t, sp.Pull)
	s.send(object{"type": "start", "id": 1, "use": 4, "kind": "source", "symbol": "source", "address": data.address})
	first := data.accept()
	read(t, first)
	first.Close()
	if seq := read(t, data.accept())["seq"].(float64); seq < 2 {
		t.Fatalf("seq %v again", seq)
	}
	s.finish()
}

func TestStartAndStopOverAndOver(t *testing.T) {
	var sent atomic.Int64
	p := withSource(endless(&sent, nil))
	p.AddFunction("function", echo)
	s := play(t, p)
	for round := range 20 {
		tuples := s.startUse(round, "source", "source", nil)
		read(t, tuples)
		go func() {
			for {
				if _, err := tuples.Read(); err != nil {
					return
				}
			}
		}()
		equal(t, s.ask(object{"type": "stop", "id": 5, "use": round, "timeout": 5000})["error"], nil)
		data := s.startUse(round, "function", "function", nil)
		equal(t, s.ask(object{"type": "stop", "id": 6, "use": round, "timeout": 5000})["error"], nil)
		if _, err := data.Read(); err == nil {
			t.Fatal("the channel is open after the stop")
		}
	}
	s.finish()
}

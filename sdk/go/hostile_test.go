package mangrove

import (
	"context"
	"encoding/json"
	"errors"
	"testing"

	"mangrove.invalid/sdk/go/internal/link"
	"mangrove.invalid/sdk/go/internal/sp"
)

type nowhere struct{}

func (nowhere) Run(context.Context, *Output) error    { return nil }
func (nowhere) Collect(context.Context, Result) error { return errors.New("no") }

// FuzzNothingAHostSendsCrashesAPlugin hands any message to control, to a sink and to a function.
func FuzzNothingAHostSendsCrashesAPlugin(f *testing.F) {
	for _, seed := range []string{
		`{"type":"start","id":1,"use":2,"kind":"source","symbol":"s","config":{"a":1},"address":"ipc://x","offset":[1]}`,
		`{"type":"start","id":1,"use":2,"kind":"function","symbol":"s"}`, `{"type":"stop","id":1,"use":1,"timeout":0,"seq":3}`,
		`{"type":"validate","id":1,"symbol":"s","args":[1,null]}`, `{"type":"commit","use":1,"seq":1}`, `{"type":"answer","id":1}`,
		`{"type":"ping","id":18446744073709551615}`, `{"type":null}`, `{"seq":1,"results":[[{}],7,null]}`, `{"seq":0}`,
		`{"context":{"ruleId":"r"},"timeout":1e308,"calls":[[1,[2,"x"]],[2,[]]],"cancel":[1]}`, `{"calls":[[],[1,2]]}`,
	} {
		f.Add([]byte(seed))
	}
	p := New("car")
	AddSource(p, "s", func(context.Context, *Use, map[string]any) (Source, error) { return nowhere{}, nil })
	AddSink(p, "s", func(context.Context, *Use, map[string]any) (Sink, error) { return nowhere{}, nil })
	p.AddFunction("s", func(_ context.Context, call *Call) (any, error) { return Arg[any](call, 1) },
		Validate(func(args []json.RawMessage) error { return nil }))
	refuse := func(context.Context, string, sp.Protocol, uint64) (*sp.Conn, error) { return nil, errors.New("no") }
	f.Fuzz(func(t *testing.T, message []byte) {
		s := newSession(context.Background(), p, link.Host{Dial: refuse}, nil, limits{Message: 1 << 20, Batch: 8})
		defer s.end(errShutdown)
		go func() {
			for {
				select {
				case sent := <-s.out:
					if _, err := json.Marshal(sent); err != nil {
						panic(err)
					}
				case <-s.ctx.Done():
					return
				}
			}
		}()
		_ = s.handle(message)
		use := newUse(s, &startRequest{Use: new(uint64)})
		newSinkRun(use, nowhere{}, nil, true).collect(message)
		function := newFunctionRun(use, p.functions["s"], nil)
		function.handle(message)
		function.working.Wait()
	})
}

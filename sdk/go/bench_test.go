package mangrove_test

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"strings"
	"testing"

	mangrove "mangrove.invalid/sdk/go"
)

// BenchmarkTuples sends objects of 200 bytes; what they hold is encoded for each.
func BenchmarkTuples(b *testing.B) {
	type tuple struct {
		N    int    `json:"n"`
		Name string `json:"name"`
		Pad  string `json:"pad"`
	}
	s := play(b, withSource(func(ctx context.Context, out *mangrove.Output) error {
		data := tuple{Name: "tuple", Pad: strings.Repeat("x", 160)}
		for data.N = 1_000_000; ; data.N++ {
			if err := out.Send(ctx, data); err != nil {
				return err
			}
		}
	}))
	conn := s.start("source", "source", nil)
	b.ResetTimer()
	for received := 0; received < b.N; {
		message, err := conn.Read()
		if err != nil {
			b.Fatal(err)
		}
		received += bytes.Count(message, []byte(`"n":`))
	}
	b.StopTimer()
	b.ReportMetric(float64(b.N)/b.Elapsed().Seconds(), "tuples/s")
	conn.Close()
}

// BenchmarkCalls keeps 64 messages of 64 calls, or one of one, in flight.
func BenchmarkCalls(b *testing.B) {
	for _, size := range []int{64, 1} {
		b.Run(fmt.Sprint(size), func(b *testing.B) {
			s := play(b, withFunction(func(_ context.Context, call *mangrove.Call) (any, error) {
				text, err := mangrove.Arg[string](call, 1)
				return strings.ToUpper(text), err
			}))
			conn := s.start("function", "function", nil)
			calls := make([]any, size)
			for id := range calls {
				calls[id] = []any{id, []any{7, "text"}}
			}
			message, _ := json.Marshal(object{"context": object{"ruleId": "rule1"}, "timeout": 60000, "calls": calls})
			b.ResetTimer()
			open := 0
			for sent, received := 0, 0; received < b.N; {
				for ; open < size*size && sent < b.N; open += size {
					if err := conn.Write(message); err != nil {
						b.Fatal(err)
					}
					sent += size
				}
				reply, err := conn.Read()
				if err != nil {
					b.Fatal(err)
				}
				done := bytes.Count(reply, []byte("TEXT"))
				received += done
				open -= done
			}
			b.StopTimer()
			b.ReportMetric(float64(b.N)/b.Elapsed().Seconds(), "calls/s")
		})
	}
}

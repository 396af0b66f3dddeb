package mangrove

import (
	"encoding/json"
	"fmt"
	"strconv"
	"time"
)

// head is what every control message begins with.
type head struct {
	Type *string `json:"type"`
	ID   *uint64 `json:"id"`
}

// The messages of the host that say more.
type (
	welcome struct {
		Version int     `json:"version"`
		Limits  limits  `json:"limits"`
		Ping    float64 `json:"pingInterval"`
		Reason  string  `json:"reason"`
	}
	limits struct {
		Message uint64 `json:"message"`
		Batch   int    `json:"batch"`
	}
	startRequest struct {
		Use        *uint64         `json:"use"`
		Kind       string          `json:"kind"`
		Symbol     string          `json:"symbol"`
		RuleID     string          `json:"ruleId"`
		OpID       string          `json:"opId"`
		InstanceID int             `json:"instanceId"`
		Config     json.RawMessage `json:"config"`
		DataSource string          `json:"dataSource"`
		Address    string          `json:"address"`
		Offset     json.RawMessage `json:"offset"`
		Ack        bool            `json:"ack"`
	}
	stopRequest struct {
		Use     *uint64      `json:"use"`
		Timeout milliseconds `json:"timeout"`
		Seq     *uint64      `json:"seq"`
	}
	validateRequest struct {
		Symbol string            `json:"symbol"`
		Args   []json.RawMessage `json:"args"`
	}
	commitNote struct {
		Use uint64 `json:"use"`
		Seq uint64 `json:"seq"`
	}
	answer struct {
		Value json.RawMessage `json:"value"`
		Error *string         `json:"error"`
	}
)

// milliseconds is a span of time on the wire; nil means that none was given.
type milliseconds struct{ value *float64 }

func (m *milliseconds) UnmarshalJSON(data []byte) error { return json.Unmarshal(data, &m.value) }

func (m milliseconds) duration(otherwise time.Duration) time.Duration {
	if m.value == nil || *m.value < 0 || *m.value > 1e9 {
		return otherwise
	}
	return time.Duration(*m.value * float64(time.Millisecond))
}

// sinkData and callData are what the host sends on data channels.
type sinkData struct {
	Seq     *uint64         `json:"seq"`
	Results json.RawMessage `json:"results"`
}

type callData struct {
	Context struct {
		RuleID     string `json:"ruleId"`
		OpID       string `json:"opId"`
		InstanceID int    `json:"instanceId"`
		FuncID     int    `json:"funcId"`
	} `json:"context"`
	Timeout milliseconds    `json:"timeout"`
	Calls   json.RawMessage `json:"calls"`
	Cancel  []uint64        `json:"cancel"`
}

type rawCall struct {
	id   uint64
	args []json.RawMessage
}

// parseCalls reads `[[id,[argument,…]],…]`.
func parseCalls(raw json.RawMessage, most int) ([]rawCall, error) {
	pairs, err := elements(raw)
	if err == nil && len(pairs) > most {
		err = fmt.Errorf("%d calls, expected at most %d", len(pairs), most)
	}
	if err != nil {
		return nil, err
	}
	calls := make([]rawCall, 0, len(pairs))
	for _, pair := range pairs {
		parts, err := elements(pair)
		if err == nil && len(parts) != 2 {
			err = fmt.Errorf("a call of %d parts, expected [id, arguments]", len(parts))
		}
		if err != nil {
			return nil, err
		}
		id, err := strconv.ParseUint(string(parts[0]), 10, 53)
		if err != nil {
			return nil, fmt.Errorf("call id: %w", err)
		}
		args, err := elements(parts[1])
		if err != nil {
			return nil, err
		}
		calls = append(calls, rawCall{id, args})
	}
	return calls, nil
}

// null is what a missing value stands for.
var null = json.RawMessage("null")

func isNull(raw json.RawMessage) bool { return len(raw) == 0 || string(raw) == "null" }

// excerpt shortens what a peer sent for an error's text.
func excerpt(data []byte) string {
	const most = 80
	if len(data) > most {
		return fmt.Sprintf("%q…", data[:most])
	}
	return fmt.Sprintf("%q", data)
}

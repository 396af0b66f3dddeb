package mangrove

import (
	"encoding/json"
	"reflect"
	"testing"
)

func FuzzElementsAreThoseOfTheStandardLibrary(f *testing.F) {
	for _, seed := range []string{`[]`, ` [ ] `, `null`, `{}`, `7`, `[1]`, `[1, [2,"]\"",{"a":[","]}] , null ]`, `["\\","ü"]`, `[{},{}]`, `[[],[]]`} {
		f.Add([]byte(seed))
	}
	f.Fuzz(func(t *testing.T, data []byte) {
		var value json.RawMessage // as fields of a message are: without white space around
		if json.Unmarshal(data, &value) != nil {
			return
		}
		var expected []json.RawMessage
		wrong := json.Unmarshal(value, &expected)
		found, err := elements(value)
		if (err == nil) != (wrong == nil) {
			t.Fatalf("%s: %v, expected %v", value, err, wrong)
		}
		if err == nil && len(found)+len(expected) > 0 && !reflect.DeepEqual(found, expected) {
			t.Fatalf("%s: %s, expected %s", value, found, expected)
		}
	})
}

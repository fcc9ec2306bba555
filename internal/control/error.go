package control

import (
	"encoding/json"
	"errors"
	"fmt"
)

// ErrNoDaemon says that nobody listens at the socket: the caller may act
// itself.
var ErrNoDaemon = errors.New("no daemon listens")

const errPermission = service + ".PermissionDenied"

// Error is an error that travels: a handler returns it, and the client's Call
// returns the same on the other side.
type Error struct {
	// Name is qualified by its interface, such as io.vfiohotplug.Failed.
	Name string
	// Parameters is a JSON object, or nothing.
	Parameters json.RawMessage
}

// NewError makes an error with parameters that encode as a JSON object.
func NewError(name string, parameters any) *Error {
	raw, err := json.Marshal(parameters)
	if err != nil {
		panic(fmt.Sprintf("parameters of %s: %v", name, err))
	}
	return &Error{Name: name, Parameters: raw}
}

// Error gives the reason in words where there is one, and the name and
// parameters otherwise.
func (e *Error) Error() string {
	var failure Failure
	if json.Unmarshal(e.Parameters, &failure) == nil && failure.Reason != "" {
		return failure.Reason
	}
	if e.Name == errPermission {
		return "only root may do that: try again with sudo"
	}
	if len(e.Parameters) == 0 || string(e.Parameters) == "{}" {
		return e.Name
	}
	return e.Name + " " + string(e.Parameters)
}

// Is makes errors.Is compare by name: errors.Is(err, &Error{Name: ErrorFailed}).
func (e *Error) Is(target error) bool {
	t, ok := target.(*Error)
	return ok && t.Name == e.Name
}

// travelling gives the error that is sent for one that a handler returned.
func travelling(err error) *Error {
	var e *Error
	if errors.As(err, &e) {
		return e
	}
	return NewError(ErrorFailed, Failure{Reason: err.Error()})
}

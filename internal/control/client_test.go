package control

import (
	"context"
	"encoding/json"
	"errors"
	"io"
	"net"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/google/go-cmp/cmp"
)

func TestCallGivesTheErrorThatTheHandlerReturned(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		client := newClient(start(t).dial(Peer{}))
		err := client.Call(t.Context(), Interface+".Refuse", nil, nil)
		var got *Error
		if !errors.As(err, &got) || got.Name != errBusy().Name {
			t.Fatalf("Call = %v, want %s", err, errBusy().Name)
		}
		if !errors.Is(err, errBusy()) || errors.Is(err, &Error{Name: ErrorFailed}) {
			t.Errorf("errors.Is does not go by the name of %v", err)
		}
		var carried busy
		if err := json.Unmarshal(got.Parameters, &carried); err != nil {
			t.Fatal(err)
		}
		if want := (busy{Address: "0000:01:00.0", Reason: "mounted"}); carried != want {
			t.Errorf("the error carries %+v, want %+v", carried, want)
		}
	})
}

func TestErrorInWords(t *testing.T) {
	tests := []struct {
		err  *Error
		want string
	}{
		{NewError(ErrorFailed, Failure{Reason: "mounted"}), "mounted"},
		{NewError(service+".PermissionDenied", struct{}{}), "only root may do that: try again with sudo"},
		{NewError(service+".ExpectedMore", struct{}{}), "org.varlink.service.ExpectedMore"},
		{&Error{Name: service + ".ExpectedMore"}, "org.varlink.service.ExpectedMore"},
		{NewError(service+".MethodNotFound", map[string]string{"method": "a.B"}), `org.varlink.service.MethodNotFound {"method":"a.B"}`},
		{&Error{Name: "a.B", Parameters: json.RawMessage("7")}, "a.B 7"},
	}
	for _, tt := range tests {
		if got := tt.err.Error(); got != tt.want {
			t.Errorf("%s %s: got %q, want %q", tt.err.Name, tt.err.Parameters, got, tt.want)
		}
	}
}

func TestStreamGivesEveryReplyUntilTheTakerHadEnough(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		daemon := start(t)
		var got []string
		take := func(r json.RawMessage) error {
			got = append(got, string(r))
			return nil
		}
		if err := newClient(daemon.dial(Peer{})).Stream(t.Context(), Interface+".Count", nil, take); err != nil {
			t.Fatal(err)
		}
		if diff := cmp.Diff([]string{`{"n":1}`, `{"n":2}`, ""}, got); diff != "" {
			t.Errorf("replies (-want +got):\n%s", diff)
		}

		enough := errors.New("enough")
		client := newClient(daemon.dial(Peer{}))
		err := client.Stream(t.Context(), Interface+".Flood", nil, func(json.RawMessage) error { return enough })
		if !errors.Is(err, enough) {
			t.Errorf("Stream = %v, want %v", err, enough)
		}
		client.Close()
		<-daemon.flooded
	})
}

func TestACallThatIsGivenUpEndsTheHandler(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		daemon := start(t)
		client := newClient(daemon.dial(Peer{}))
		ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
		defer cancel()
		if err := client.Call(ctx, Interface+".Wait", nil, nil); !errors.Is(err, context.DeadlineExceeded) {
			t.Errorf("Call = %v, want %v", err, context.DeadlineExceeded)
		}
		<-daemon.waited
	})
}

func TestCallAndABadDaemon(t *testing.T) {
	tests := []struct {
		name  string
		reply string
		want  string
	}{
		{"hangs up", "", "io.vfiohotplug.Status: the daemon hung up without an answer"},
		{"hangs up inside the reply", `{"para`, "the daemon hung up without an answer"},
		{"talks nonsense", "hello\x00", "io.vfiohotplug.Status: read the reply: invalid character"},
		{"gives another type", `{"parameters":{"devices":1}}` + "\x00", "io.vfiohotplug.Status: read the reply: json: cannot unmarshal number"},
		{"does not end", strings.Repeat("x", maxReply+1), "message too long"},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			near, far := net.Pipe()
			var bad sync.WaitGroup
			bad.Go(func() {
				defer far.Close()
				if _, err := newFrames(far, maxCall).next(); err != nil {
					t.Error(err)
				}
				io.WriteString(far, tt.reply)
			})
			client := newClient(near)
			err := client.Call(t.Context(), MethodStatus, StatusRequest{}, &StatusReply{})
			if err == nil || !strings.Contains(err.Error(), tt.want) {
				t.Errorf("Call = %v, want %q", err, tt.want)
			}
			if strings.Contains(err.Error(), "\n") {
				t.Errorf("the error is not one line: %q", err)
			}
			client.Close()
			bad.Wait()
		})
	}
}

func TestCallAfterTheDaemonHungUp(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		daemon := start(t)
		conn := daemon.dial(Peer{})
		daemon.stop()
		<-daemon.served
		if err := echo(t, conn); err == nil || !strings.HasPrefix(err.Error(), "io.vfiohotplug.Echo: ") {
			t.Errorf("Call = %v, want an error that names the method", err)
		}
	})
}

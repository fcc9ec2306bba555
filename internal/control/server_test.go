package control

import (
	"context"
	"encoding/json"
	"errors"
	"io"
	"net"
	"strings"
	"sync"
	"syscall"
	"testing"
	"testing/synctest"
	"time"

	"github.com/google/go-cmp/cmp"
	"go.uber.org/goleak"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// What goes over the wire, message by message.
func TestServerAnswers(t *testing.T) {
	root, other := Peer{UID: 0}, Peer{UID: 1000}
	tests := []struct {
		name string
		peer Peer
		send string
		want string
	}{
		{
			"a call", root, `{"method":"io.vfiohotplug.Echo","parameters":{"say":"hello"}}`,
			`{"parameters":{"say":"hello"}}`,
		},
		{
			"a call by anybody", other, `{"method":"io.vfiohotplug.Echo","parameters":{"say":"hello"}}`,
			`{"parameters":{"say":"hello"}}`,
		},
		{
			"a NUL inside a string", root, `{"method":"io.vfiohotplug.Echo","parameters":{"say":"a\u0000b"}}`,
			`{"parameters":{"say":"a\u0000b"}}`,
		},
		{
			"no parameters", root, `{"method":"io.vfiohotplug.Echo"}`,
			`{"parameters":{"say":""}}`,
		},
		{
			"a reply without parameters", root, `{"method":"io.vfiohotplug.Admin"}`,
			`{}`,
		},
		{
			"a call for root by somebody else", other, `{"method":"io.vfiohotplug.Admin"}`,
			`{"parameters":{},"error":"org.varlink.service.PermissionDenied"}`,
		},
		{
			"a parameter that this version does not know", root, `{"method":"io.vfiohotplug.Echo","parameters":{"force":true}}`,
			`{"parameters":{"parameter":"force"},"error":"org.varlink.service.InvalidParameter"}`,
		},
		{
			"a parameter of the wrong type", root, `{"method":"io.vfiohotplug.Echo","parameters":{"say":1}}`,
			`{"parameters":{"parameter":"say"},"error":"org.varlink.service.InvalidParameter"}`,
		},
		{
			"an error that names itself", root, `{"method":"io.vfiohotplug.Refuse"}`,
			`{"parameters":{"address":"0000:01:00.0","reason":"mounted"},"error":"org.example.Busy"}`,
		},
		{
			"any other error", root, `{"method":"io.vfiohotplug.Break"}`,
			`{"parameters":{"reason":"unbind nvme: no such device"},"error":"io.vfiohotplug.Failed"}`,
		},
		{
			"a reply that cannot be encoded", root, `{"method":"io.vfiohotplug.Unencodable"}`,
			`{"parameters":{"reason":"json: unsupported type: chan int"},"error":"io.vfiohotplug.Failed"}`,
		},
		{
			"a method that is not there", root, `{"method":"io.vfiohotplug.Fly"}`,
			`{"parameters":{"method":"io.vfiohotplug.Fly"},"error":"org.varlink.service.MethodNotFound"}`,
		},
		{
			"an interface that is not there", root, `{"method":"io.Fly"}`,
			`{"parameters":{"interface":"io"},"error":"org.varlink.service.InterfaceNotFound"}`,
		},
		{
			"a method without an interface", root, `{"method":"Fly"}`,
			`{"parameters":{"interface":""},"error":"org.varlink.service.InterfaceNotFound"}`,
		},
		{
			"many replies", root, `{"method":"io.vfiohotplug.Count","more":true}`,
			`{"parameters":{"n":1},"continues":true} {"parameters":{"n":2},"continues":true} {}`,
		},
		{
			"many replies for one who wants one", root, `{"method":"io.vfiohotplug.Count"}`,
			`{"parameters":{},"error":"org.varlink.service.ExpectedMore"}`,
		},
		{
			"no reply wanted, and none given", root,
			`{"method":"io.vfiohotplug.Echo","oneway":true}` + "\x00" + `{"method":"io.vfiohotplug.Echo"}`,
			`{"parameters":{"say":""}}`,
		},
		{
			"calls ahead of their replies", root,
			`{"method":"io.vfiohotplug.Echo","parameters":{"say":"1"}}` + "\x00" + `{"method":"io.vfiohotplug.Echo","parameters":{"say":"2"}}`,
			`{"parameters":{"say":"1"}} {"parameters":{"say":"2"}}`,
		},
		{
			"who are you", other, `{"method":"org.varlink.service.GetInfo"}`,
			`{"parameters":{"vendor":"v","product":"p","version":"1","url":"u","interfaces":["io.vfiohotplug","org.varlink.service"]}}`,
		},
		{
			"an interface nobody described", other, `{"method":"org.varlink.service.GetInterfaceDescription","parameters":{"interface":"io.x"}}`,
			`{"parameters":{"interface":"io.x"},"error":"org.varlink.service.InterfaceNotFound"}`,
		},
		{"keys that varlink may add", root, `{"method":"io.vfiohotplug.Admin","upgrade":false}`, `{}`},
		{"no JSON", root, `hello`, ``},
		{"no object", root, `[1]`, ``},
		{"no method", root, `{"parameters":{}}`, ``},
		{"an empty message", root, ``, ``},
		{"too long for anybody but root", other, strings.Repeat(" ", maxCallOthers) + `{"method":"io.vfiohotplug.Echo"}`, ``},
		{"long, by root", root, strings.Repeat(" ", maxCallOthers) + `{"method":"io.vfiohotplug.Echo"}`, `{"parameters":{"say":""}}`},
		{"too long, by root", root, strings.Repeat(" ", maxCall) + `{"method":"io.vfiohotplug.Echo"}`, ``},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				conn := start(t).dial(tt.peer)
				go func() {
					// Nobody reads to the end what is too long.
					_, err := io.WriteString(conn, tt.send+"\x00")
					if err != nil && !errors.Is(err, io.ErrClosedPipe) {
						t.Error(err)
					}
				}()
				got, _ := read(conn, strings.Count(tt.want, " ")+1)
				if diff := cmp.Diff(tt.want, strings.Join(got, " ")); diff != "" {
					t.Errorf("replies (-want +got):\n%s", diff)
				}
			})
		})
	}
}

func TestInterfaceDescriptionsAreServed(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		client := newClient(start(t).dial(Peer{UID: 1000}))
		for name, want := range map[string]string{Interface: description, service: serviceDescription} {
			var got struct{ Description string }
			in := map[string]string{"interface": name}
			if err := client.Call(t.Context(), service+".GetInterfaceDescription", in, &got); err != nil {
				t.Fatal(err)
			}
			if got.Description != want || !strings.Contains(want, "interface "+name) {
				t.Errorf("%s is described as %q", name, got.Description)
			}
		}
	})
}

func TestTheHandlerLearnsWhoCalls(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		who := Peer{PID: 7, UID: 1000, GID: 100}
		var got Peer
		if err := newClient(start(t).dial(who)).Call(t.Context(), Interface+".Who", nil, &got); err != nil {
			t.Fatal(err)
		}
		if got != who {
			t.Errorf("the handler saw %+v, want %+v", got, who)
		}
	})
}

func TestAClientThatIsSilentIsHungUpOn(t *testing.T) {
	for name, sends := range map[string]string{
		"from the start":        "",
		"inside a message":      `{"method":"io.vfio`,
		"after a call":          `{"method":"io.vfiohotplug.Admin","oneway":true}` + "\x00",
		"with a byte at a time": "drip",
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				conn := start(t).dial(Peer{})
				began := time.Now()
				var sender sync.WaitGroup
				defer sender.Wait()
				sender.Go(func() {
					if sends != "drip" {
						io.WriteString(conn, sends)
						return
					}
					for _, err := conn.Write([]byte(" ")); err == nil; _, err = conn.Write([]byte(" ")) {
						time.Sleep(time.Second)
					}
				})
				if got, end := read(conn, 1); len(got) != 0 || end != io.EOF {
					t.Errorf("got %q and %v, want the end", got, end)
				}
				if took := time.Since(began); took != idleTime {
					t.Errorf("hung up after %v, want %v", took, idleTime)
				}
			})
		})
	}
}

func TestAHandlerMayTakeLongerThanAClientMayBeSilent(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		client := newClient(start(t).dial(Peer{}))
		if err := client.Call(t.Context(), Interface+".Slow", nil, nil); err != nil {
			t.Errorf("a call that takes %v: %v", slowTime, err)
		}
		if err := client.Call(t.Context(), Interface+".Admin", nil, nil); err != nil {
			t.Errorf("the call after it: %v", err)
		}
	})
}

func TestAClientThatNeverReadsStallsNobodyAndIsHungUpOn(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		daemon := start(t)
		deaf := daemon.dial(Peer{UID: 1000})
		began := time.Now()
		io.WriteString(deaf, `{"method":"io.vfiohotplug.Flood","more":true}`+"\x00")
		synctest.Wait()
		if err := newClient(daemon.dial(Peer{})).Call(t.Context(), Interface+".Admin", nil, nil); err != nil {
			t.Errorf("another client: %v", err)
		}
		if took := time.Since(began); took != 0 {
			t.Errorf("another client waited %v", took)
		}
		<-daemon.flooded
		if took := time.Since(began); took != writeTime {
			t.Errorf("the flood ended after %v, want %v", took, writeTime)
		}
	})
}

func TestTheHandlersContextEndsWhenTheClientGoesAway(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		daemon := start(t)
		conn := daemon.dial(Peer{})
		io.WriteString(conn, `{"method":"io.vfiohotplug.Wait"}`+"\x00")
		synctest.Wait()
		conn.Close()
		if err := <-daemon.waited; !errors.Is(err, context.Canceled) {
			t.Errorf("the handler's context ended with %v", err)
		}
	})
}

func TestWhatWantsNoReplyIsDoneThoughTheClientLeft(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		daemon := start(t)
		conn := daemon.dial(Peer{})
		io.WriteString(conn, `{"method":"io.vfiohotplug.Slow","oneway":true}`+"\x00")
		conn.Close()
		<-daemon.slow
	})
}

func TestWhatWantsAReplyIsNotBegunForAClientThatLeft(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		daemon := start(t)
		conn := daemon.dial(Peer{})
		io.WriteString(conn, `{"method":"io.vfiohotplug.Slow","oneway":true}`+"\x00"+`{"method":"io.vfiohotplug.Wait"}`+"\x00")
		conn.Close()
		<-daemon.slow
		synctest.Wait()
		select {
		case <-daemon.waited:
			t.Error("the call was served")
		default:
		}
	})
}

func TestAClientThatCallsTooFarAheadIsHungUpOn(t *testing.T) {
	call := `{"method":"io.vfiohotplug.Echo"}` + "\x00"
	for name, ahead := range map[string]string{
		"in number": strings.Repeat(call, maxWaiting+2),
		"in bytes":  strings.Repeat(strings.Repeat(" ", maxCallOthers/2)+call, 3),
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				daemon := start(t)
				conn := daemon.dial(Peer{UID: 1000})
				io.WriteString(conn, `{"method":"io.vfiohotplug.Wait"}`+"\x00")
				synctest.Wait()
				go io.WriteString(conn, ahead)
				if err := <-daemon.waited; !errors.Is(err, context.Canceled) {
					t.Errorf("the handler's context ended with %v", err)
				}
			})
		})
	}
}

func TestSomeSeatsAreKeptForRoot(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		daemon := start(t)
		var others []net.Conn
		for range maxConnsOthers {
			others = append(others, daemon.dial(Peer{UID: 1000}))
		}
		if err := echo(t, daemon.dial(Peer{UID: 1001})); err == nil {
			t.Errorf("client %d was served, want it hung up on", maxConnsOthers+1)
		}
		for i := range maxConns - maxConnsOthers {
			if err := echo(t, daemon.dial(Peer{UID: 0})); err != nil {
				t.Errorf("root's client %d: %v", i+1, err)
			}
		}
		if err := echo(t, daemon.dial(Peer{UID: 0})); err == nil {
			t.Errorf("client %d was served, want it hung up on", maxConns+1)
		}
		others[0].Close()
		synctest.Wait()
		if err := echo(t, daemon.dial(Peer{UID: 1001})); err != nil {
			t.Errorf("a client after one left: %v", err)
		}
	})
}

func TestServeEndsItsClientsWithItsContext(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		daemon := start(t)
		idle := daemon.dial(Peer{})
		busy := daemon.dial(Peer{})
		io.WriteString(busy, `{"method":"io.vfiohotplug.Wait"}`+"\x00")
		synctest.Wait()
		daemon.stop()
		if got, end := read(idle, 1); len(got) != 0 || end != io.EOF {
			t.Errorf("an idle client got %q and %v, want the end", got, end)
		}
		want := `{"parameters":{"reason":"context canceled"},"error":"io.vfiohotplug.Failed"}`
		if got, _ := read(busy, 1); len(got) != 1 || got[0] != want {
			t.Errorf("a busy client got %q, want what its handler made of the end", got)
		}
		if err := <-daemon.served; err != nil {
			t.Errorf("Serve = %v", err)
		}
		<-daemon.waited
	})
}

func TestServeOutlivesAShortageOfDescriptors(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		daemon := start(t)
		for range 3 {
			daemon.listener.conns <- accepted{err: &net.OpError{Op: "accept", Err: syscall.EMFILE}}
		}
		if err := echo(t, daemon.dial(Peer{})); err != nil {
			t.Error(err)
		}
	})
}

func TestServeTellsThatTheListenerBroke(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		daemon := start(t)
		daemon.listener.Close()
		if err := <-daemon.served; !errors.Is(err, net.ErrClosed) {
			t.Errorf("Serve = %v, want %v", err, net.ErrClosed)
		}
	})
}

func TestAClientWithoutCredentialsIsHungUpOn(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		daemon := start(t)
		near, far := net.Pipe()
		t.Cleanup(func() { near.Close() })
		daemon.listener.conns <- accepted{conn: far} // a net.Pipe has none
		if err := echo(t, near); err == nil {
			t.Error("the call was served")
		}
	})
}

// Whatever bytes come, the session ends, all it said was varlink, and only
// root got through to what is for root.
func FuzzSession(f *testing.F) {
	f.Add([]byte(`{"method":"io.vfiohotplug.Admin"}`+"\x00"), false)
	f.Add([]byte(`{"method":"io.vfiohotplug.Echo","parameters":{"say":"x"}}`+"\x00"), false)
	f.Add([]byte(`{"method":"io.vfiohotplug.Count","more":true}`+"\x00"), true)
	f.Add([]byte(`{"method":"..","oneway":true}`+"\x00"+`{"method":"."}`+"\x00"), true)
	f.Add([]byte("\x00"), false)
	f.Fuzz(func(t *testing.T, stream []byte, root bool) {
		peer := Peer{UID: 1000}
		if root {
			peer.UID = 0
		}
		handlers := withService(Info{}, harmless())
		handlers[Interface+".Admin"] = Handler{Root: true, Handle: func(_ context.Context, c *Call) (any, error) {
			if c.Peer.UID != 0 {
				t.Errorf("uid %d got through to a handler for root", c.Peer.UID)
			}
			return nil, nil
		}}
		// The client stays until its last call is served, or it is hung up on.
		last := make(chan struct{}, len(stream)+1)
		handlers[Interface+".Last"] = Handler{Handle: func(context.Context, *Call) (any, error) {
			last <- struct{}{}
			return nil, nil
		}}
		near, far := net.Pipe()
		ended := make(chan struct{})
		go func() {
			defer close(ended)
			s := session{conn: far, peer: peer, handlers: handlers}
			s.serve(context.Background())
		}()
		var replies []string
		var end error
		var reader sync.WaitGroup
		reader.Go(func() { replies, end = read(near, 1<<20) })
		calls := strings.TrimSuffix(string(stream), "\x00") + "\x00"
		io.WriteString(near, calls+`{"method":"io.vfiohotplug.Last"}`+"\x00")
		select {
		case <-last:
		case <-ended:
		}
		near.Close()
		<-ended
		reader.Wait()
		if end != io.EOF && !errors.Is(end, io.ErrClosedPipe) && !errors.Is(end, io.ErrUnexpectedEOF) {
			t.Errorf("the stream of replies ended with %v", end)
		}
		for _, text := range replies {
			var r reply
			if err := json.Unmarshal([]byte(text), &r); err != nil {
				t.Errorf("the reply %q: %v", text, err)
			}
		}
	})
}

// echo makes one call that is quickly served.
func echo(t *testing.T, conn net.Conn) error {
	t.Helper()
	return newClient(conn).Call(t.Context(), Interface+".Echo", nil, nil)
}

// read gives up to n messages, and how the stream ended if it did.
func read(conn net.Conn, n int) (messages []string, end error) {
	frames := newFrames(conn, maxReply)
	for len(messages) < n {
		message, err := frames.next()
		if err != nil {
			return messages, err
		}
		messages = append(messages, string(message))
	}
	return messages, nil
}

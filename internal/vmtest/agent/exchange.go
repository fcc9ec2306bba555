package main

import (
	"bufio"
	"net"
	"time"

	"vfio-hotplug/internal/vmtest/wire"
)

// Exchange sends a message to whoever listens at a unix socket, and gives the
// answer up to its last byte.
func (a *Agent) Exchange(ask wire.Exchange, reply *wire.Contents) error {
	data, err := exchange(ask)
	reply.Data, reply.Outcome = data, outcome(err)
	return nil
}

func exchange(ask wire.Exchange) ([]byte, error) {
	conn, err := net.DialTimeout("unix", ask.Socket, ask.Timeout)
	if err != nil {
		return nil, err
	}
	defer conn.Close()
	if err := conn.SetDeadline(time.Now().Add(ask.Timeout)); err != nil {
		return nil, err
	}
	if _, err := conn.Write(ask.Message); err != nil {
		return nil, err
	}
	return bufio.NewReader(conn).ReadBytes(ask.End)
}

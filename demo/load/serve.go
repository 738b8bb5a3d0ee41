package main

import (
	"net"

	"github.com/meshferry/meshferry/agent/proxy/dubbo"
)

// echo answers the frames of one connection, all of one read with one write.
func echo(c net.Conn) {
	defer c.Close()
	var out []byte
	_ = frames(c, func(h dubbo.Header, frame []byte) {
		switch {
		case h.IsEvent() && h.IsRequest() && h.TwoWay():
			out = dubbo.AppendHeartbeatReply(out, h.Serialization(), h.ID)
		case h.IsRequest() && h.TwoWay():
			at := len(out)
			out = append(out, frame...)
			out[at+2], out[at+3] = h.Serialization(), dubbo.StatusOK
		}
	}, func() error {
		_, err := c.Write(out)
		out = out[:0]
		return err
	})
}

// frames calls each for every frame, and burst after those of one read.
func frames(c net.Conn, each func(dubbo.Header, []byte), burst func() error) error {
	buf := make([]byte, 64<<10)
	r, w := 0, 0
	for {
		n, err := c.Read(buf[w:])
		if err != nil {
			return err
		}
		w += n
		for {
			h, n, complete, err := dubbo.Frame(buf[r:w], dubbo.DefaultMaxBody)
			if err != nil {
				return err
			}
			if !complete {
				if n > len(buf) {
					buf = append(buf, make([]byte, n-len(buf))...)
				}
				break
			}
			each(h, buf[r:r+n])
			r += n
		}
		w = copy(buf, buf[r:w])
		r = 0
		if err := burst(); err != nil {
			return err
		}
	}
}

// relay copies bytes through user space, as any proxy must that looks at them.
func relay(to string) func(net.Conn) {
	return func(down net.Conn) {
		defer down.Close()
		up, err := net.Dial("tcp", to)
		if err != nil {
			return
		}
		defer up.Close()
		go func() { move(up, down); up.Close() }()
		move(down, up)
	}
}

func move(dst, src net.Conn) {
	buf := make([]byte, 64<<10)
	for {
		n, err := src.Read(buf)
		if n > 0 {
			if _, err := dst.Write(buf[:n]); err != nil {
				return
			}
		}
		if err != nil {
			return
		}
	}
}

package dubbo

import "encoding/binary"

// Event is what an event frame says.
type Event byte

// Events (HeartbeatHandler, HeaderExchangeHandler.handlerEvent). Unknown is for bodies that are none of these: a proxy
// answers a two-way one like a heartbeat, as dubbo-go does.
const (
	Unknown Event = iota
	Heartbeat
	Readonly  // no new calls to the sender, which is about to stop
	Writeable // takes READONLY back
)

// ParseEvent reads the body of an event. The serializations that Java ships are all known, because the bodies are short.
func ParseEvent(h Header, body []byte) Event {
	if !h.IsEvent() {
		return Unknown
	}
	switch string(body) {
	case "", "N", "NN", // hessian2, the second one from dubbo-go
		"\x00\x00\x00\x01\xaf",        // fastjson2
		"\xac\xed\x00\x05w\x01\x00",   // java, compactedjava
		"\xac\xed\x00\x05p", "null\n": // nativejava; fastjson, gson
		return Heartbeat
	case "\x01R", "\x00\x00\x00\x02JR", "\xac\xed\x00\x05w\x01\x01t\x00\x01R", "\xac\xed\x00\x05t\x00\x01R", "\"R\"\n":
		return Readonly
	case "\x01W", "\x00\x00\x00\x02JW", "\xac\xed\x00\x05w\x01\x01t\x00\x01W", "\xac\xed\x00\x05t\x00\x01W", "\"W\"\n":
		return Writeable
	}
	return Unknown
}

// AppendHeartbeat appends a heartbeat that asks for a reply. Like all messages here it is in fastjson2 when asked for, else in
// hessian2, which everybody reads: the header says which.
func AppendHeartbeat(dst []byte, serialization byte, id uint64) []byte {
	return appendEvent(dst, flagRequest|flagTwoWay, 0, serialization, id, "N", "\x00\x00\x00\x01\xaf")
}

// AppendHeartbeatReply appends the reply to the heartbeat id.
func AppendHeartbeatReply(dst []byte, serialization byte, id uint64) []byte {
	return appendEvent(dst, 0, StatusOK, serialization, id, "N", "\x00\x00\x00\x01\xaf")
}

// AppendReadonly appends READONLY, which has no reply.
func AppendReadonly(dst []byte, serialization byte) []byte {
	return appendEvent(dst, flagRequest, 0, serialization, 0, "\x01R", "\x00\x00\x00\x02JR")
}

func appendEvent(dst []byte, flags, status, serialization byte, id uint64, hessian, jsonb string) []byte {
	start := len(dst)
	if serialization == Fastjson2 {
		return endFrame(append(beginFrame(dst, flags|flagEvent|Fastjson2, status, id), jsonb...), start)
	}
	return endFrame(append(beginFrame(dst, flags|flagEvent|Hessian2, status, id), hessian...), start)
}

// AppendError appends a response of status 80 with text, always in hessian2: read by Java whatever the request used
// (CONTRACT §6).
func AppendError(dst []byte, id uint64, text string) []byte {
	start := len(dst)
	dst = beginFrame(dst, Hessian2, StatusServerError, id)
	return endFrame(appendHessianString(dst, text), start)
}

// What Java writes for an org.apache.dubbo.rpc.RpcException without a stack, up to its message. Response type 0 (exception without
// attachments) is understood by all versions.
const (
	hessianException = "\x90" +
		"C\x30\x21org.apache.dubbo.rpc.RpcException\x95" +
		"\x14suppressedExceptions\x0astackTrace\x05cause\x0ddetailMessage\x04code" +
		"\x60" +
		"p\x1fjava.util.Collections$EmptyList" +
		"p\x1c[java.lang.StackTraceElement" +
		"\x51\x90" // the cause of a Throwable without one is itself
	jsonbExceptionType = "\x00\x00\x00\x02\xbd\x00"
	jsonbException     = "\x92\x6aorg.apache.dubbo.rpc.RpcException\x00\xa6\x7fMcode\x01"
	jsonbMessage       = "\x7fVdetailMessage\x02"
	jsonbExceptionEnd  = "\x7fSstackTrace\x03\x94\x7f]suppressedExceptions\x04\x92hjava.util.Collections$EmptyList\x05\x94\xa5"
)

// AppendException appends a response of status 20 that carries an RpcException (code as in RpcException.*_EXCEPTION), in the
// serialization of the request: ErrSerialization when that is not written here.
func AppendException(dst []byte, serialization byte, id uint64, code int, text string) ([]byte, error) {
	start := len(dst)
	switch serialization {
	case Hessian2:
		dst = beginFrame(dst, Hessian2, StatusOK, id)
		dst = append(dst, hessianException...)
		dst = appendHessianString(dst, text)
		dst = appendHessianInt(dst, int32(code))
	case Fastjson2:
		dst = beginFrame(dst, Fastjson2, StatusOK, id)
		dst = append(dst, jsonbExceptionType...)
		block := len(dst)
		dst = append(dst, 0, 0, 0, 0)
		dst = append(dst, jsonbException...)
		dst = appendJSONBInt(dst, code)
		dst = append(dst, jsonbMessage...)
		dst = appendJSONBString(dst, text)
		dst = append(dst, jsonbExceptionEnd...)
		binary.BigEndian.PutUint32(dst[block:], uint32(len(dst)-block-4))
	default:
		return dst, ErrSerialization
	}
	return endFrame(dst, start), nil
}

func appendHessianInt(dst []byte, v int32) []byte {
	if v >= -0x10 && v <= 0x2f {
		return append(dst, byte(0x90+v))
	}
	return binary.BigEndian.AppendUint32(append(dst, 'I'), uint32(v))
}

// ErrorText is the text in a response whose status is not 20 (StatusOK); false when the body cannot be read.
func ErrorText(serialization byte, body []byte) (text []byte, ok bool) {
	var err error
	switch serialization {
	case Hessian2:
		text, _, err = hessianText(body, 0)
	case Fastjson2:
		text, _, err = jsonbText(body, 0)
	default:
		return nil, false
	}
	return text, err == nil && text != nil
}

// ResponseType is what a response of status 20 carries: 0 exception, 1 value, 2 null, 3 to 5 the same with attachments
// (DubboCodec.RESPONSE_*); false when the body cannot be read.
func ResponseType(serialization byte, body []byte) (t byte, ok bool) {
	t, _, ok = responseType(serialization, body)
	return t, ok
}

// responseType also tells where the value stands.
func responseType(serialization byte, body []byte) (t byte, value int, ok bool) {
	var v int64
	switch serialization {
	case Hessian2:
		n, size := hessianInt(body)
		if size == 0 {
			return 0, 0, false
		}
		v, value = int64(n), size
	case Fastjson2:
		start, end, err := jsonbBlock(body, 0)
		if err != nil {
			return 0, 0, false
		}
		n, size := jsonbLong(body[start:end])
		if size == 0 {
			return 0, 0, false
		}
		v, value = n, end
	default:
		return 0, 0, false
	}
	if v < 0 || v > 5 {
		return 0, 0, false
	}
	return byte(v), value, true
}

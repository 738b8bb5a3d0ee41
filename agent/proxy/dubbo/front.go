package dubbo

import "bytes"

// Front is what stands in a request's body before the arguments. A hessian null is nil, an empty string is not.
// The slices alias the body in the ordinary case.
type Front struct {
	DubboVersion  []byte // of the protocol: "2.0.2"
	Path          []byte // Java writes the interface here, dubbo-go the path
	Version       []byte // of the service; Java writes "0.0.0" when there is none, dubbo-go ""
	Method        []byte
	ParameterDesc []byte // JVM descriptors of the parameters
	Args          int    // offset of the first argument in the body
}

// ParseFront reads the front of a request's body (DecodeableRpcInvocation.decode): ErrSerialization when that
// serialization is not read here, ErrTruncated or ErrMalformed when the body is not what it should be.
func ParseFront(serialization byte, body []byte, f *Front) error {
	var read func(b []byte, pos int) ([]byte, int, error)
	switch serialization {
	case Hessian2:
		read = hessianText
	case Fastjson2:
		read = jsonbText
	default:
		return ErrSerialization
	}
	pos := 0
	for _, field := range [...]*[]byte{&f.DubboVersion, &f.Path, &f.Version, &f.Method, &f.ParameterDesc} {
		text, end, err := read(body, pos)
		if err != nil {
			return err
		}
		*field, pos = text, end
	}
	f.Args = pos
	return nil
}

// argCount is the number of parameters that JVM descriptors name (ReflectUtils.desc2classArray).
func argCount(desc []byte) (n int, err error) {
	for i := 0; i < len(desc); i++ {
		switch desc[i] {
		case '[':
			continue
		case 'L':
			end := bytes.IndexByte(desc[i:], ';')
			if end < 0 {
				return 0, ErrMalformed
			}
			i += end
		case 'Z', 'B', 'C', 'D', 'F', 'I', 'J', 'S', 'V':
		default:
			return 0, ErrMalformed
		}
		n++
	}
	return n, nil
}

// Package dubbo reads and writes dubbo2 frames for a proxy.
//
// A proxy needs little of a frame: the header, who is called (the front of the body), sometimes an attachment
// (behind the arguments), and a few messages of its own. This package finds those in the read buffer. It never
// builds the objects that are in a body.
//
// Invariants:
//   - Nothing here keeps, copies or changes the caller's buffer, except PutID, which writes eight bytes of it.
//     What is returned aliases the buffer and lives as long as it does.
//   - No allocation per frame in the ordinary case: strings of one chunk without surrogate pairs, and an
//     [Attachments] that is used again.
//   - Time and memory are linear in the length of the body, whatever the body says about its own lengths.
//   - Only hessian2 and fastjson2 (JSONB) bodies are read. For any other serialization the header is all there is:
//     [ErrSerialization] says so and is no reason to close a connection.
//
// Sources: Dubbo ExchangeCodec, DubboCodec, DecodeableRpcInvocation, DecodeableRpcResult; the hessian 2.0 grammar as
// hessian-lite writes it; fastjson2 JSONB.
package dubbo

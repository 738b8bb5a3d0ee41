package rewrite

import (
	"crypto/sha256"
	"encoding/hex"
)

// HostID names an agent as owner of what it wrote: 12 hex digits, the same after
// every restart, different for two machines and for two addresses of one machine
// (two agents on a host). The machine id itself does not leave the host.
func HostID(machineID, address string) string {
	sum := sha256.Sum256([]byte("meshferry host\x00" + machineID + "\x00" + address))
	return hex.EncodeToString(sum[:6])
}

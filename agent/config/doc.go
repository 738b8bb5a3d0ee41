// Package config reads the agent's settings: flag, else MESHFERRY_* variable,
// else YAML file, else default. The YAML names are those of CONTRACT §11.
//
// Invariants:
//   - Load is pure: what it needs of the machine is in its Input. Read is the one
//     function that looks at the machine.
//   - What is not understood is an error, never skipped: it names the place (file
//     and line, variable or flag) and the nearest name that is known. All errors
//     of a file are told at once.
//   - A Config that Load returned is complete and consistent, but for the
//     address, which Read fills in, and the content of password files, which is
//     read when a connection needs it.
//   - A password is a Secret and prints as "***". No URL in a Config holds one.
package config

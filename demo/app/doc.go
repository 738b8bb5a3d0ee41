// App is the application of the demo and of the end-to-end tests: a dubbo-go
// provider or consumer of a greeting service, in one binary, as a user would
// write them but for the counting and the remote control.
//
//	app provider --registry mesh://127.0.0.1:20883 --port 20880 --name one
//	app consumer --registry mesh://127.0.0.1:20883 --calls 3
//
// Each prints one JSON line on its standard output when it is ready and is then
// driven over HTTP on loopback, at the address in that line, until SIGTERM. Logs
// of dubbo-go go to standard error. A consumer with --every makes calls by itself
// and prints who answered them and through which hops.
//
//	provider GET /stats                          calls by method, distinct connections
//	consumer GET /call?n=3&method=SayHello&arg=x one JSON line for each call; also group, version, attachment=key=value
//	consumer GET /load?rate=100&for=5s           the ledger: one line for each call, a summary last; also method, arg, attachment
package main

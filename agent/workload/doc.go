// Package workload knows what the local applications asked for: publications,
// subscriptions and leases. It keeps them on disk and tells which publications
// live.
package workload

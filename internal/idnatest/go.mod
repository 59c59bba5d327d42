module github.com/wsguard/wsguard/internal/idnatest

go 1.25.0

require (
	golang.org/x/net v0.57.0
	golang.org/x/text v0.40.0
)

replace github.com/wsguard/wsguard => ../..

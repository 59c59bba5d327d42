module github.com/wsguard/wsguard/internal/jsonsuite

go 1.25.0

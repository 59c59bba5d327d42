// Package pages tests what the pages of the repository tell a user to write and to
// run. It has no code of its own.
package pages

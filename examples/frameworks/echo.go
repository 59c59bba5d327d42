package main

import (
	"net/http"

	"github.com/labstack/echo/v4"
	"github.com/labstack/echo/v4/middleware"
)

func echoRouter(h routes) http.Handler {
	e := echo.New()
	e.Use(middleware.LoggerWithConfig(middleware.LoggerConfig{Output: h.log}))
	e.GET("/ws", echo.WrapHandler(h.ws))
	page := http.TimeoutHandler(h.page, h.timeout, "the page takes too long")
	e.GET("/", echo.WrapHandler(page), middleware.Gzip())
	return e
}

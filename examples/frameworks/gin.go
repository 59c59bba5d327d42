package main

import (
	"net/http"

	"github.com/gin-contrib/gzip"
	"github.com/gin-gonic/gin"
)

func ginRouter(h routes) http.Handler {
	gin.SetMode(gin.ReleaseMode)
	r := gin.New()
	r.Use(gin.LoggerWithWriter(h.log))
	r.GET("/ws", gin.WrapH(h.ws))
	pages := r.Group("/", gzip.Gzip(gzip.DefaultCompression))
	pages.GET("/", gin.WrapH(http.TimeoutHandler(h.page, h.timeout, "the page takes too long")))
	return r
}

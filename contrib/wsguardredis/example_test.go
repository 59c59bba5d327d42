package wsguardredis_test

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/redis/go-redis/v9"

	"github.com/wsguard/wsguard"
	"github.com/wsguard/wsguard/contrib/wsguardredis"
	"github.com/wsguard/wsguard/store"
)

// The limits, tickets, bans and revocations of a guard hold for all instances of a service.
func Example() {
	client := redis.NewClient(&redis.Options{Addr: "redis:6379"})
	shared, err := wsguardredis.New(client, wsguardredis.Options{Prefix: "chat"})
	if err != nil {
		panic(err)
	}
	guard, err := wsguard.New(wsguard.Config{
		Origins: []string{"https://app.example.com"},
		Auth: wsguard.AuthConfig{
			Verifier: func(context.Context, string) (wsguard.Principal, error) {
				return wsguard.Principal{}, wsguard.ErrUnauthenticated
			},
		},
		Shared: shared.Shared(),
	})
	fmt.Println(guard != nil, err)
	// Output: true <nil>
}

// A program that has no guard follows the revocations of all instances. A Guard does it by itself.
func Example_revocations() {
	follow := func(ctx context.Context, revocations store.Marks, revoked func(store.Mark)) {
		cursor, known := "", false
		for ctx.Err() == nil {
			var news []store.Mark
			var err error
			if !known { // at the start, and after a gap
				cursor, err = revocations.All(ctx, func(m store.Mark) error { revoked(m); return nil })
				known = err == nil
			} else {
				news, cursor, err = revocations.News(ctx, cursor, time.Minute)
				known = !errors.Is(err, store.ErrGap)
			}
			for _, m := range news {
				revoked(m)
			}
			if err != nil {
				select {
				case <-time.After(time.Second):
				case <-ctx.Done():
				}
			}
		}
	}
	ctx, stop := context.WithCancel(context.Background())
	var revocations store.MemoryMarks // or the Revocations of a wsguardredis.Store
	revocations.Set(ctx, "alice", nil, time.Hour)
	follow(ctx, &revocations, func(m store.Mark) {
		fmt.Println(m.Key)
		stop()
	})
	// Output: alice
}

package pool

import "sync"

// Pool keeps connections for reuse. The zero value is ready, and may be used by several goroutines.
type Pool[T any] struct {
	mu   sync.Mutex
	free []T
}

type (
	// Dialer opens a connection.
	Dialer func() (any, error)
	// Closer closes one.
	Closer interface{ Close() error }
)

// Get returns a free connection, or false when all of them are in use; the caller then has to dial one, and
// may hand it to Put afterwards.
func (p *Pool[T]) Get() (T, bool) {
	p.mu.Lock()
	defer p.mu.Unlock()
	var none T
	if len(p.free) == 0 {
		return none, false
	}
	last := p.free[len(p.free)-1]
	p.free = p.free[:len(p.free)-1]
	return last, true
}

func New[T any]() *Pool[T] { return &Pool[T]{} }

#include <stdint.h>
#include <string.h>

#define SIZE 64

/* Bytes between two threads; head is written by one, tail by the other, and neither ever waits for long. */
typedef struct ring {
    uint8_t bytes[SIZE];
    volatile uint32_t head;
    volatile uint32_t tail;
} ring_t;

#ifdef RING_STATS
/* How full it is, of 100; only built where somebody looks at it, since reading both ends costs two misses. */
static int ring_percent(const ring_t *ring)
{
    uint32_t used = ring->head - ring->tail;
    return (int)((used * 100u) / SIZE);
}
#endif

/* Takes up to `want` bytes out; returns how many there were. Bytes that were taken may be overwritten at once. */
uint32_t *ring_read(ring_t *ring, uint8_t *out, uint32_t want)
{
    uint32_t have = ring->head - ring->tail;
    uint32_t count = want < have ? want : have;
    for (uint32_t i = 0; i < count; i++)
        out[i] = ring->bytes[(ring->tail + i) % SIZE];
    ring->tail += count;
    return &ring->tail;
}

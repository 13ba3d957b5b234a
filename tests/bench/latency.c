/* The reader of a pipe, who tells how old its records were: latency FIFO SIZE
 *
 * A record is SIZE bytes and holds the sender's CLOCK_REALTIME in 20 digits at offset 17 (see blast.c); it is
 * had when the read that brought its end returns. Says "ready" once the pipe is open, and at its end (or
 * after SIGTERM) the count and the percentiles in us.
 */
#define _GNU_SOURCE
#include "common.h"
#include <poll.h>

#include <fcntl.h>

#define MOST 4000000

static char buffer[1 << 20];
static int64_t ages[MOST];
static size_t count;
static volatile sig_atomic_t stopping;

static void stop(int number)
{
    (void)number;
    stopping = 1;
}

static int ascending(const void *left, const void *right)
{
    int64_t a = *(const int64_t *)left, b = *(const int64_t *)right;
    return (a > b) - (a < b);
}

static double age(double share) /* us */
{
    return count ? ages[(size_t)(share * (count - 1))] / 1e3 : 0;
}

int main(int argc, char **argv)
{
    if (argc != 3)
        return 2;
    size_t size = atoi(argv[2]), have = 0;
    struct sigaction action = {.sa_handler = stop};
    sigaction(SIGTERM, &action, NULL);
    /* Not to wait for a writer: what is ready is there before the first datagram, or C's write would end it */
    int fd = open(argv[1], O_RDONLY | O_NONBLOCK);
    if (fd < 0)
        die(argv[1]);
    puts("ready");
    fflush(stdout);
    struct pollfd readable = {.fd = fd, .events = POLLIN};
    while (!stopping) {
        if (poll(&readable, 1, 100) <= 0) /* a SIGTERM just before would not end a read */
            continue;
        ssize_t got = read(fd, buffer + have, sizeof buffer - have);
        if (got <= 0)
            break;
        int64_t now = clock_ns(CLOCK_REALTIME);
        have += got;
        size_t offset = 0;
        for (; have - offset >= size; offset += size)
            if (count < MOST)
                ages[count++] = now - strtoll(buffer + offset + 17, NULL, 10);
        memmove(buffer, buffer + offset, have - offset);
        have -= offset;
    }
    qsort(ages, count, sizeof *ages, ascending);
    printf("{\"received\": %zu, \"p50\": %.1f, \"p99\": %.1f, \"max\": %.1f}\n", count, age(0.5), age(0.99),
           age(1));
    return 0;
}

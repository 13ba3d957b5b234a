/* The reference for many senders: one thread, a connected socket each, the same period for all.
 *
 * many COUNT SIZE TOGETHER PERIOD TICK INTERFACE ADDRESS GROUP PORT SECONDS
 *   TOGETHER  datagrams of SIZE bytes in each send, cut by the kernel (UDP_SEGMENT) if they are several
 *   PERIOD    ns from one send of a socket to its next; the sockets are spread evenly over it
 *   TICK      ns: it wakes at multiples of this, and sends what is due
 *   GROUP     and PORT of the first socket; each further one has the next of both
 * What it sends is in memory. Prints what it sent, how many of these were late, in which time (s), and the CPU
 * time of it (ns). Late is what goes more than TOLERANCE and more than a datagram's period after its time, as the
 * daemon counts it.
 */
#define _GNU_SOURCE
#include "common.h"

#define TOLERANCE 1000000 /* ns */
#define ROOM 65536 /* bytes of each socket, so that what is sent is not always in the caches */

static int open_one(const char *interface, const char *address, struct sockaddr_in to, int segment)
{
    int fd = open_sender(interface), on = 1;
    struct sockaddr_in from = address_of(address, 0);
    setsockopt(fd, IPPROTO_IP, IP_RECVERR, &on, sizeof on);
    if (bind(fd, (struct sockaddr *)&from, sizeof from))
        die("bind");
    if (connect(fd, (struct sockaddr *)&to, sizeof to))
        die("connect");
    if (segment && setsockopt(fd, IPPROTO_UDP, UDP_SEGMENT, &segment, sizeof segment))
        die("UDP_SEGMENT");
    return fd;
}

/* How many of the datagrams of a send, a period apart, are late that the first is late by so much. */
static int count_late(int64_t delay, int64_t period, int together)
{
    int late = 0;
    for (int i = 0; i < together; i++, delay -= period)
        late += delay > TOLERANCE && delay > period;
    return late;
}

int main(int argc, char **argv)
{
    if (argc != 11) {
        fprintf(stderr, "usage: many COUNT SIZE TOGETHER PERIOD TICK INTERFACE ADDRESS GROUP PORT SECONDS\n");
        return 2;
    }
    int count = atoi(argv[1]), size = atoi(argv[2]), together = atoi(argv[3]), turns = ROOM / (size * together);
    int64_t period = atoll(argv[4]), tick = atoll(argv[5]), seconds = atoll(argv[10]);
    struct sockaddr_in first = address_of(argv[8], atoi(argv[9]));
    int *fds = calloc(count, sizeof *fds), *turn = calloc(count, sizeof *turn);
    int64_t *due = calloc(count, sizeof *due);
    char *data = malloc((size_t)count * ROOM);
    memset(data, 'x', (size_t)count * ROOM);
    prctl(PR_SET_TIMERSLACK, 1);
    int64_t start = clock_ns(CLOCK_MONOTONIC), now = start;
    for (int i = 0; i < count; i++) {
        struct sockaddr_in to = first;
        to.sin_addr.s_addr = htonl(ntohl(first.sin_addr.s_addr) + i);
        to.sin_port = htons(ntohs(first.sin_port) + i);
        fds[i] = open_one(argv[6], argv[7], to, together > 1 ? size : 0);
        due[i] = start + period * i / count;
    }
    unsigned long long sent = 0, late = 0;
    int64_t cpu = clock_ns(CLOCK_PROCESS_CPUTIME_ID);
    while (now < start + seconds * SECOND) {
        for (int i = 0; i < count; i++)
            for (; due[i] <= now; due[i] += period) {
                char *piece = data + (size_t)i * ROOM + (size_t)(turn[i]++ % turns) * size * together;
                if (send(fds[i], piece, (size_t)size * together, 0) < 0 && errno != ENOBUFS && errno != EAGAIN)
                    die("send");
                late += count_late(clock_ns(CLOCK_MONOTONIC) - due[i], period / together, together);
                sent += together;
            }
        sleep_until((now / tick + 1) * tick);
        now = clock_ns(CLOCK_MONOTONIC);
    }
    printf("{\"sent\": %llu, \"late\": %llu, \"elapsed\": %.6f, \"cpu\": %lld}\n", sent, late, (now - start) / 1e9,
           (long long)(clock_ns(CLOCK_PROCESS_CPUTIME_ID) - cpu));
    return 0;
}

/* The sender reference: a file in chunks, a sendto() each.
 *
 * send FILE SIZE INTERFACE GROUP PORT RATE [BURST]
 *   RATE   bits of payload a second, at absolute deadlines; 0: as fast as possible
 *   BURST  what goes at once, in ns of that rate: a millisecond if not given; 0: a datagram
 * Prints what it sent, in which time (s), and the CPU time of it (ns).
 */
#define _GNU_SOURCE
#include "common.h"

int main(int argc, char **argv)
{
    if (argc != 7 && argc != 8) {
        fprintf(stderr, "usage: send FILE SIZE INTERFACE GROUP PORT RATE [BURST]\n");
        return 2;
    }
    FILE *file = fopen(argv[1], "r");
    if (!file)
        die(argv[1]);
    size_t size = atoi(argv[2]), length;
    int fd = open_sender(argv[3]);
    struct sockaddr_in to = address_of(argv[4], atoi(argv[5]));
    double rate = atof(argv[6]);
    int64_t burst = argc == 8 ? atoll(argv[7]) : 1000000; /* ns */
    char *chunk = malloc(size);
    prctl(PR_SET_TIMERSLACK, 1);

    unsigned long long sent = 0, bytes = 0;
    int64_t cpu = clock_ns(CLOCK_PROCESS_CPUTIME_ID), start = clock_ns(CLOCK_MONOTONIC), deadline = start;
    while ((length = fread(chunk, 1, size, file)) > 0) {
        if (rate && bytes * 8 >= rate * (deadline + burst - start) / 1e9) { /* this burst is full */
            deadline = burst ? deadline + burst : start + (int64_t)(bytes * 8 / rate * 1e9);
            sleep_until(deadline);
        }
        while (sendto(fd, chunk, length, 0, (struct sockaddr *)&to, sizeof to) < 0)
            if (errno != ENOBUFS && errno != EAGAIN)
                die("sendto");
        sent++;
        bytes += length;
    }
    double elapsed = (clock_ns(CLOCK_MONOTONIC) - start) / 1e9;
    printf("{\"sent\": %llu, \"bytes\": %llu, \"elapsed\": %.6f, \"cpu\": %lld}\n", sent, bytes, elapsed,
           (long long)(clock_ns(CLOCK_PROCESS_CPUTIME_ID) - cpu));
    return 0;
}

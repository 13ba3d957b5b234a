/* A traffic generator that holds its rate.
 *
 * blast [-m MODE] [-s SIZE] [-n COUNT] [-r RATE] [-k SPREAD] [-S] INTERFACE GROUP PORT
 *   -m  single: a system call a datagram; mmsg: sendmmsg() of up to 32; gso: UDP_SEGMENT of up to 64 or 64 KiB;
 *       packets: sendmmsg() of up to 32 frames past the sender's own UDP and IP (AF_PACKET), at half the cost,
 *       so that one core can send faster than another receives; packet: the same, but each at its own deadline,
 *       and together only those that are due already
 *   -r  datagrams a second at absolute deadlines, a system call each; 0 (the default): as fast as possible
 *   -k  spread over that many destinations in turn: GROUP + i, PORT + i
 *   -S  sleep to the deadlines, by clock_nanosleep(2) alone, with no priority; else the last of the wait is
 *       spent spinning: a core is then the sender's
 * A payload is text: its number (16 digits), CLOCK_REALTIME in nanoseconds (20 digits), letters.
 * Prints what it sent, in which time (s), and how late it was at its deadlines (us).
 */
#define _GNU_SOURCE
#include "common.h"

#include <linux/if_packet.h>
#include <net/ethernet.h>
#include <netinet/ip.h>
#include <sys/ioctl.h>
#include <sys/resource.h>
#include <sys/uio.h>

#define MOST 64
#define HEADERS 42 /* bytes: Ethernet, IP, UDP */
#define SPIN 60000 /* ns before a deadline from which on sleeping is too coarse */

static char arena[MOST][HEADERS + 65536];
static uint32_t *lateness;
static size_t sleeps;

static void digits(char *at, uint64_t number, int count)
{
    while (count--) {
        at[count] = '0' + number % 10;
        number /= 10;
    }
}

static void stamp(char *payload, uint64_t number, uint64_t when)
{
    digits(payload, number, 16);
    digits(payload + 17, when, 20);
}

static void wait_until(int64_t deadline, int sleeping)
{
    int64_t left = deadline - clock_ns(CLOCK_MONOTONIC);
    if (sleeping ? left > 0 : left > 2 * SPIN)
        sleep_until(sleeping ? deadline : deadline - SPIN);
    while (!sleeping && clock_ns(CLOCK_MONOTONIC) < deadline)
        __builtin_ia32_pause();
}

static int ascending(const void *left, const void *right)
{
    uint32_t a = *(const uint32_t *)left, b = *(const uint32_t *)right;
    return (a > b) - (a < b);
}

static double late(double share) /* us */
{
    return sleeps ? lateness[(size_t)(share * (sleeps - 1))] / 1e3 : 0;
}

/* A socket for whole frames on the interface, past its queueing. */
static int open_packet(const char *interface)
{
    int fd = socket(AF_PACKET, SOCK_RAW, 0), on = 1, buffer = 8 << 20;
    struct sockaddr_ll to = {.sll_family = AF_PACKET, .sll_ifindex = ifindex_of(interface)};
    if (fd < 0)
        die("AF_PACKET");
    setsockopt(fd, SOL_PACKET, PACKET_QDISC_BYPASS, &on, sizeof on);
    setsockopt(fd, SOL_SOCKET, SO_SNDBUFFORCE, &buffer, sizeof buffer);
    if (bind(fd, (struct sockaddr *)&to, sizeof to))
        die("bind");
    return fd;
}

/* The headers of datagrams of that size from the interface's address to a group (RFC 1112 section 6.4). */
static void make_headers(char *at, int fd, const char *interface, const struct sockaddr_in *to, int size)
{
    struct ifreq request = {0};
    strncpy(request.ifr_name, interface, IFNAMSIZ - 1);
    struct ether_header ethernet = {.ether_type = htons(ETHERTYPE_IP)};
    if (ioctl(fd, SIOCGIFHWADDR, &request))
        die("SIOCGIFHWADDR");
    memcpy(ethernet.ether_shost, request.ifr_hwaddr.sa_data, 6);
    uint32_t group = ntohl(to->sin_addr.s_addr);
    uint8_t hardware[6] = {1, 0, 0x5e, group >> 16 & 0x7f, group >> 8, group};
    memcpy(ethernet.ether_dhost, hardware, 6);

    int inet = socket(AF_INET, SOCK_DGRAM, 0);
    request.ifr_addr.sa_family = AF_INET;
    if (ioctl(inet, SIOCGIFADDR, &request))
        die("SIOCGIFADDR");
    close(inet);
    struct iphdr ip = {.version = 4, .ihl = 5, .tot_len = htons(28 + size), .frag_off = htons(IP_DF), .ttl = 8,
                       .protocol = IPPROTO_UDP, .daddr = to->sin_addr.s_addr,
                       .saddr = ((struct sockaddr_in *)&request.ifr_addr)->sin_addr.s_addr};
    uint16_t words[10];
    uint32_t sum = 0;
    memcpy(words, &ip, sizeof ip);
    for (int i = 0; i < 10; i++)
        sum += words[i];
    sum = (sum & 0xffff) + (sum >> 16);
    ip.check = ~((sum & 0xffff) + (sum >> 16));
    struct udphdr udp = {.source = htons(20000), .dest = to->sin_port, .len = htons(8 + size)};
    memcpy(at, &ethernet, 14);
    memcpy(at + 14, &ip, 20);
    memcpy(at + 34, &udp, 8);
}

int main(int argc, char **argv)
{
    const char *mode = "mmsg";
    int size = 1316, spread = 1, sleeping = 0, option;
    uint64_t count = 1;
    double rate = 0;
    while ((option = getopt(argc, argv, "m:s:n:r:k:S")) != -1) {
        switch (option) {
        case 'm': mode = optarg; break;
        case 's': size = atoi(optarg); break;
        case 'n': count = strtoull(optarg, NULL, 10); break;
        case 'r': rate = atof(optarg); break;
        case 'k': spread = atoi(optarg); break;
        case 'S': sleeping = 1; break;
        default: return 2;
        }
    }
    if (argc - optind != 3 || size < 38 || size > 65507 || spread < 1)
        return 2;
    int gso = !strcmp(mode, "gso"), packets = !strncmp(mode, "packet", 6);
    int single = !strcmp(mode, "single"), each = !strcmp(mode, "packet");
    int batch = single ? 1 : gso ? 65507 / size : 32;
    if (batch > MOST)
        batch = MOST;
    if (batch < 1)
        batch = 1;
    if (rate && !single && !each) /* no burst longer than a tenth of a millisecond, but whole segments for GSO */
        while (batch > 1 && !gso && batch / rate > 1e-4)
            batch--;

    int fd = packets ? open_packet(argv[optind]) : open_sender(argv[optind]);
    if (gso && setsockopt(fd, IPPROTO_UDP, UDP_SEGMENT, &size, sizeof size))
        die("UDP_SEGMENT");
    struct sockaddr_in *to = calloc(spread, sizeof *to);
    for (int i = 0; i < spread; i++) {
        to[i] = address_of(argv[optind + 1], atoi(argv[optind + 2]) + i);
        to[i].sin_addr.s_addr = htonl(ntohl(to[i].sin_addr.s_addr) + i);
    }
    char (*headers)[HEADERS] = calloc(spread, sizeof *headers);
    for (int i = 0; packets && i < spread; i++)
        make_headers(headers[i], fd, argv[optind], &to[i], size);
    int named = spread > 1 && !packets;
    if (!packets && spread == 1 && connect(fd, (struct sockaddr *)to, sizeof *to))
        die("connect");

    char *together = arena[0]; /* for GSO the payloads lie one behind the other */
    struct mmsghdr messages[MOST] = {0};
    struct iovec pieces[MOST];
    char *payloads[MOST];
    for (int i = 0; i < batch; i++) {
        payloads[i] = gso ? together + (size_t)i * size : arena[i] + HEADERS;
        for (int j = 0; j < size; j++)
            payloads[i][j] = "abcdefghijklmnopqrstuvwxyz "[j % 27];
        payloads[i][16] = payloads[i][37] = ' ';
        pieces[i] = packets ? (struct iovec){arena[i], HEADERS + size} : (struct iovec){payloads[i], size};
        messages[i].msg_hdr.msg_iov = &pieces[i];
        messages[i].msg_hdr.msg_iovlen = 1;
    }
    lateness = calloc(count / (each ? 1 : batch) + 2, sizeof *lateness);
    prctl(PR_SET_TIMERSLACK, 1);
    if (rate && !sleeping) /* it plays the network, which does not slow down because a receiver is busy */
        setpriority(PRIO_PROCESS, 0, -10);

    uint64_t sent = 0, refused = 0;
    unsigned turn = 0;
    int64_t start = clock_ns(CLOCK_MONOTONIC);
    while (sent < count) {
        int now = count - sent < (uint64_t)batch ? (int)(count - sent) : batch;
        if (rate) {
            int64_t deadline = start + (int64_t)(sent / rate * 1e9);
            wait_until(deadline, sleeping);
            int64_t by = clock_ns(CLOCK_MONOTONIC) - deadline;
            lateness[sleeps++] = by < 0 ? 0 : by > UINT32_MAX ? UINT32_MAX : by;
            int64_t due = each ? 1 + (int64_t)(by * rate / 1e9) : now;
            if (due < now)
                now = due < 1 ? 1 : (int)due;
        }
        uint64_t when = clock_ns(CLOCK_REALTIME);
        for (int i = 0; i < now; i++) {
            stamp(payloads[i], sent + i, when);
            unsigned which = (turn + (gso ? 0 : i)) % spread;
            messages[i].msg_hdr.msg_name = named ? &to[which] : NULL;
            messages[i].msg_hdr.msg_namelen = named ? sizeof *to : 0;
            if (packets)
                memcpy(arena[i], headers[which], HEADERS);
        }
        int done;
        if (gso) {
            struct iovec all = {together, (size_t)now * size};
            struct msghdr message = messages[0].msg_hdr;
            message.msg_iov = &all;
            done = sendmsg(fd, &message, 0) < 0 ? -1 : now;
        } else if (single) {
            done = sendmsg(fd, &messages[0].msg_hdr, 0) < 0 ? -1 : 1;
        } else {
            done = sendmmsg(fd, messages, now, 0);
        }
        if (done < 0) {
            if (errno != ENOBUFS && errno != EAGAIN)
                die("send");
            refused++;
            continue;
        }
        sent += done;
        turn += gso ? 1 : done;
    }
    double elapsed = (clock_ns(CLOCK_MONOTONIC) - start) / 1e9;
    qsort(lateness, sleeps, sizeof *lateness, ascending);
    printf("{\"sent\": %llu, \"refused\": %llu, \"elapsed\": %.6f, \"late_p50\": %.1f, \"late_p99\": %.1f, "
           "\"late_max\": %.1f}\n",
           (unsigned long long)sent, (unsigned long long)refused, elapsed, late(0.5), late(0.99), late(1));
    return 0;
}

/* The textbook sender, from its description: news.txt in pieces of at most 29 bytes, TTL 64, one every DELAY. */
#include <arpa/inet.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

#ifndef DELAY
#define DELAY 2000000 /* microseconds */
#endif

/* What fgets read, NUL bytes of the text included: the buffer was filled with 1 before. */
static size_t length(const char *piece, size_t size)
{
	while (piece[size - 1] != '\0')
		size--;
	return size - 1;
}

int main(int argc, char **argv)
{
	struct sockaddr_in to = { .sin_family = AF_INET };
	unsigned char ttl = 64;
	char piece[30];
	FILE *news = fopen("news.txt", "r");
	int s = socket(AF_INET, SOCK_DGRAM, 0);

	if (argc != 3 || news == NULL || s < 0)
		return 2;
	to.sin_addr.s_addr = inet_addr(argv[1]);
	to.sin_port = htons(atoi(argv[2]));
	setsockopt(s, IPPROTO_IP, IP_MULTICAST_TTL, &ttl, sizeof ttl);
	while (memset(piece, 1, sizeof piece), fgets(piece, sizeof piece, news) != NULL) {
		sendto(s, piece, length(piece, sizeof piece), 0, (struct sockaddr *)&to, sizeof to);
		usleep(DELAY);
	}
	return 0;
}

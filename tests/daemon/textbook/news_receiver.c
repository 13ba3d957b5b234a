/* The textbook receiver, from its description: binds the port, joins on INADDR_ANY, prints what arrives,
 * at most 29 bytes of each datagram. */
#include <arpa/inet.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/socket.h>

int main(int argc, char **argv)
{
	struct sockaddr_in here = { .sin_family = AF_INET };
	struct ip_mreq membership;
	char piece[29];
	ssize_t n;
	int s = socket(AF_INET, SOCK_DGRAM, 0), on = 1;

	if (argc != 3 || s < 0)
		return 2;
	setsockopt(s, SOL_SOCKET, SO_REUSEADDR, &on, sizeof on);
	here.sin_addr.s_addr = htonl(INADDR_ANY);
	here.sin_port = htons(atoi(argv[2]));
	if (bind(s, (struct sockaddr *)&here, sizeof here) < 0)
		return 3;
	membership.imr_multiaddr.s_addr = inet_addr(argv[1]);
	membership.imr_interface.s_addr = htonl(INADDR_ANY);
	if (setsockopt(s, IPPROTO_IP, IP_ADD_MEMBERSHIP, &membership, sizeof membership) < 0)
		return 4;
	fprintf(stderr, "joined\n");
	while ((n = recv(s, piece, sizeof piece, 0)) >= 0) {
		fwrite(piece, 1, n, stdout);
		fflush(stdout);
	}
	return 1;
}

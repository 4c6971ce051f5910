/* Lets User-Mode Linux 6.1 run on processors whose extended state is larger than it knows of (AMX).
 *
 * UML keeps a user process's registers in a buffer that is sized for AVX-512 and writes them back with
 * PTRACE_SETREGSET NT_X86_XSTATE. The host takes such a write only if it has the size of everything that the processor
 * can have (arch/x86/kernel/fpu/regset.c, xstateregs_set): on a processor with AMX each node dies at its first process
 * with "ptrace set fp regs failed, errno = 14". Loaded before the C library, this reads and writes the whole state
 * and shows UML the part that it knows. What it does not know no process of a node can use: AMX has to be asked for with
 * arch_prctl(2), which UML does not pass on.
 *
 * UML's kernel is one thread, so one buffer will do; its stacks are too small for it.
 */
#define _GNU_SOURCE
#include <dlfcn.h>
#include <elf.h>
#include <stdarg.h>
#include <stdint.h>
#include <string.h>
#include <sys/ptrace.h>
#include <sys/uio.h>

#define HEADER 512 /* where XSTATE_BV stands: Intel SDM volume 1, section 13.4.2 */
#define KNOWN ((1ull << 17) - 1) /* all components below AMX's TILECFG */

static char whole[65536];
static size_t whole_size;

static size_t smaller(size_t a, size_t b)
{
	return a < b ? a : b;
}

long ptrace(enum __ptrace_request request, ...)
{
	static long (*next)(enum __ptrace_request, pid_t, void *, void *);
	struct iovec mine = { whole, sizeof(whole) }, *theirs;
	uint64_t components;
	va_list arguments;
	long result;
	pid_t pid;
	void *address;

	va_start(arguments, request);
	pid = va_arg(arguments, pid_t);
	address = va_arg(arguments, void *);
	theirs = va_arg(arguments, struct iovec *);
	va_end(arguments);
	if (!next)
		next = (long (*)(enum __ptrace_request, pid_t, void *, void *))dlsym(RTLD_NEXT, "ptrace");
	if ((uintptr_t)address != NT_X86_XSTATE || (request != PTRACE_GETREGSET && request != PTRACE_SETREGSET))
		return next(request, pid, address, theirs);
	if (request == PTRACE_GETREGSET || !whole_size) {
		result = next(PTRACE_GETREGSET, pid, address, &mine);
		if (result)
			return result;
		whole_size = mine.iov_len;
	}
	if (request == PTRACE_GETREGSET) {
		theirs->iov_len = smaller(theirs->iov_len, whole_size);
		memcpy(theirs->iov_base, whole, theirs->iov_len);
		return 0;
	}
	memset(whole, 0, whole_size);
	memcpy(whole, theirs->iov_base, smaller(theirs->iov_len, whole_size));
	if (theirs->iov_len < whole_size) {
		memcpy(&components, whole + HEADER, sizeof(components));
		components &= KNOWN;
		memcpy(whole + HEADER, &components, sizeof(components));
	}
	mine.iov_len = whole_size;
	return next(PTRACE_SETREGSET, pid, address, &mine);
}

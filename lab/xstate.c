/*
 * xstate: lets user-mode-linux 6.1 run on processors with AMX.
 *
 * UML saves and restores a guest process's vector registers by ptrace, in a
 * buffer as large as AVX-512 needs (2,696 bytes).  Linux accepts a read of
 * part of that state, but a write only of all of it: on a processor with AMX
 * all of it is 11,008 bytes, the write fails with EFAULT, and the guest's
 * init dies at once ("ptrace set fp regs failed, errno = 14").  Preloaded
 * into UML, this lengthens each such write with zeros, which is the initial
 * state of the parts that UML does not know and that no guest can switch on.
 *
 * Source: Linux, arch/x86/kernel/fpu/regset.c, xstateregs_set;
 * arch/x86/um/os-Linux/registers.c, restore_fp_registers (v6.1).
 */
#define _GNU_SOURCE
#include <dlfcn.h>
#include <elf.h>
#include <linux/ptrace.h>
#include <stddef.h>
#include <stdint.h>
#include <string.h>
#include <sys/types.h>
#include <sys/uio.h>

#define XSTATE_BV 512             /* offset of the bitmap of the parts in use */
#define KNOWN_PARTS 0x3ffULL      /* x87 ... AVX-512, PKRU: those below 2,696 */
#define LARGEST 65536

typedef long (*ptrace_call)(int, pid_t, void *, void *);

/* Every switch to the guest passes here, so both are looked up once. */
static ptrace_call next_ptrace;
static size_t full_size;
static char full_state[LARGEST] __attribute__((aligned(64)));

__attribute__((constructor)) static void find_next_ptrace(void)
{
	next_ptrace = (ptrace_call)dlsym(RTLD_NEXT, "ptrace");
}

static size_t size_of_full_state(pid_t pid)
{
	struct iovec probe = { full_state, sizeof(full_state) };

	if (next_ptrace(PTRACE_GETREGSET, pid, (void *)(uintptr_t)NT_X86_XSTATE, &probe))
		return 0;
	return probe.iov_len;
}

long ptrace(int request, pid_t pid, void *type, void *data)
{
	struct iovec *part = data, full;
	uint64_t parts;

	if (request != PTRACE_SETREGSET || (uintptr_t)type != NT_X86_XSTATE)
		return next_ptrace(request, pid, type, data);
	if (!full_size)
		full_size = size_of_full_state(pid);
	if (part->iov_len >= full_size)
		return next_ptrace(request, pid, type, data);
	memcpy(full_state, part->iov_base, part->iov_len);
	memset(full_state + part->iov_len, 0, full_size - part->iov_len);
	memcpy(&parts, full_state + XSTATE_BV, sizeof(parts));
	parts &= KNOWN_PARTS;
	memcpy(full_state + XSTATE_BV, &parts, sizeof(parts));
	full.iov_base = full_state;
	full.iov_len = full_size;
	return next_ptrace(request, pid, type, &full);
}

#include "unit.h"

#include "base/arena.h"
#include "base/buffer.h"

static void arena_gives_zeroed_aligned_memory(void **state) {
    struct arena arena = {0};
    unsigned char *last = NULL;
    for (size_t size = 0; size < 3000; size += 7) {
        unsigned char *memory = arena_alloc(&arena, size);
        assert_non_null(memory);
        assert_int_equal((uintptr_t)memory % 16, 0);
        assert_ptr_not_equal(memory, last);
        for (size_t i = 0; i < size; i++) assert_int_equal(memory[i], 0);
        memset(memory, 0xff, size);
        last = memory;
    }
    assert_non_null(arena_alloc(&arena, 5 << 20));
    assert_null(arena_alloc(&arena, SIZE_MAX));
    assert_null(arena_alloc(&arena, SIZE_MAX / 2 + 1));
    arena_free(&arena);
    assert_null(arena.blocks);
    arena_free(&arena);
}

static void arena_copies_text(void **state) {
    struct arena arena = {0};
    assert_string_equal(arena_strdup(&arena, ""), "");
    assert_string_equal(arena_strdup(&arena, "abc"), "abc");
    assert_string_equal(arena_strndup(&arena, "abcdef", 2), "ab");
    char *text = arena_printf(&arena, "%5000d|%s", 7, "end");
    assert_int_equal(strlen(text), 5004);
    assert_string_equal(text + 5000, "|end");
    arena_free(&arena);
}

static void buffer_grows(void **state) {
    struct buffer buffer = {0};
    assert_null(buffer.data);
    assert_true(buffer_add(&buffer, "", 0));
    assert_string_equal(buffer.data, "");
    for (int i = 0; i < 1000; i++) assert_true(buffer_printf(&buffer, "%03d,", i));
    assert_int_equal(buffer.length, 4000);
    assert_int_equal(strlen(buffer.data), 4000);
    assert_memory_equal(buffer.data + 3992, "998,999,", 8);
    assert_true(buffer_add(&buffer, "a\0b", 3));
    assert_true(buffer_add_string(&buffer, "c"));
    assert_int_equal(buffer.length, 4004);
    assert_memory_equal(buffer.data + 4000, "a\0bc", 5);
    buffer_free(&buffer);
    assert_null(buffer.data);
    assert_int_equal(buffer.length, 0);
}

static void buffer_refuses_absurd_sizes(void **state) {
    struct buffer buffer = {0};
    assert_true(buffer_add_string(&buffer, "kept"));
    assert_false(buffer_reserve(&buffer, SIZE_MAX));
    assert_false(buffer_reserve(&buffer, SIZE_MAX - 2));
    assert_string_equal(buffer.data, "kept");
    buffer_free(&buffer);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(arena_gives_zeroed_aligned_memory),
        cmocka_unit_test(arena_copies_text),
        cmocka_unit_test(buffer_grows),
        cmocka_unit_test(buffer_refuses_absurd_sizes),
    };
    return cmocka_run_group_tests_name("memory", tests, NULL, NULL);
}

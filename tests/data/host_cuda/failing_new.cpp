// The `new (std::nothrow)` of the plugin library in tests: finds no memory when told so.

#include <new>

static bool outOfMemory = false;

extern "C" __attribute__((visibility("default"))) void setOutOfMemory(int value)
{
    outOfMemory = value != 0;
}

void* operator new(std::size_t size, std::nothrow_t const&) noexcept
{
    if (outOfMemory)
    {
        return nullptr;
    }
    try
    {
        return ::operator new(size);
    }
    catch (std::bad_alloc const&)
    {
        return nullptr;
    }
}

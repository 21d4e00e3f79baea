// The creators of all plugins.

#ifndef ALIGNSEG_CREATORS_H
#define ALIGNSEG_CREATORS_H

#include <NvInferRuntime.h>

#define ALIGNSEG_TEXT_OF(macro) #macro
#define ALIGNSEG_TEXT(macro) ALIGNSEG_TEXT_OF(macro)

namespace alignseg
{

//! Returns all creators, and their number in `count`. They live as long as the library.
nvinfer1::IPluginCreatorInterface* const* allCreators(int32_t& count);

} // namespace alignseg

#endif // ALIGNSEG_CREATORS_H

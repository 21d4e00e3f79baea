# Sets ALIGNSEG_TENSORRT_HEADERS to the folder of NvInferRuntime.h: in TENSORRT_ROOT if that is given,
# else in the system's folders, else fetched. TensorRT's libraries are not needed: they load the plugin.

set(suffixes include include/${CMAKE_LIBRARY_ARCHITECTURE} targets/${CMAKE_SYSTEM_PROCESSOR}-linux-gnu/include)
unset(ALIGNSEG_TENSORRT_HEADERS CACHE)

if(TENSORRT_ROOT)
  find_path(ALIGNSEG_TENSORRT_HEADERS NvInferRuntime.h
    PATHS ${TENSORRT_ROOT} PATH_SUFFIXES ${suffixes} NO_DEFAULT_PATH)
  if(NOT ALIGNSEG_TENSORRT_HEADERS)
    message(FATAL_ERROR
      "TENSORRT_ROOT is ${TENSORRT_ROOT}, but none of its ${suffixes} contains NvInferRuntime.h.\n"
      "Give the folder that contains TensorRT's include/: -DTENSORRT_ROOT=/opt/TensorRT-10.14")
  endif()
else()
  find_path(ALIGNSEG_TENSORRT_HEADERS NvInferRuntime.h
    PATHS /usr/local/tensorrt /usr/local/TensorRT /usr/src/tensorrt /opt/tensorrt PATH_SUFFIXES ${suffixes})
endif()

if(NOT ALIGNSEG_TENSORRT_HEADERS)
  find_package(Git QUIET)
  set(folder ${CMAKE_BINARY_DIR}/_deps/tensorrt-${TENSORRT_VERSION})
  if(Git_FOUND AND NOT EXISTS ${folder}/include/NvInferRuntime.h)
    message(STATUS "No TensorRT headers found; fetching those of ${TENSORRT_VERSION} from ${TENSORRT_REPOSITORY}")
    file(REMOVE_RECURSE ${folder})
    # FetchContent would check out the whole repository; include/ alone is 1 MB.
    execute_process(
      COMMAND ${GIT_EXECUTABLE} -c advice.detachedHead=false clone --quiet --depth 1 --filter=blob:none --sparse
        --branch v${TENSORRT_VERSION} ${TENSORRT_REPOSITORY} ${folder}
      RESULT_VARIABLE status ERROR_VARIABLE reason)
    if(status EQUAL 0)
      execute_process(COMMAND ${GIT_EXECUTABLE} -C ${folder} sparse-checkout set include
        RESULT_VARIABLE status ERROR_VARIABLE reason)
    endif()
  endif()
  if(NOT EXISTS ${folder}/include/NvInferRuntime.h)
    message(FATAL_ERROR
      "TensorRT's headers were not found. Looked for NvInferRuntime.h in TENSORRT_ROOT (not given), in the system's "
      "folders, and in tag v${TENSORRT_VERSION} of ${TENSORRT_REPOSITORY}: ${reason}\n"
      "Give TensorRT's folder: -DTENSORRT_ROOT=/opt/TensorRT-10.14\n"
      "or the version to fetch, spelt as in its tag: -DTENSORRT_VERSION=11.1\n"
      "or build only the kernels: -DALIGNSEG_BUILD_TENSORRT=OFF")
  endif()
  set(ALIGNSEG_TENSORRT_HEADERS ${folder}/include CACHE PATH "Folder of NvInferRuntime.h" FORCE)
endif()

# The macros are named TRT_MAJOR_ENTERPRISE in newer versions, NV_TENSORRT_MAJOR in 10.10 and before.
file(STRINGS ${ALIGNSEG_TENSORRT_HEADERS}/NvInferVersion.h lines
  REGEX "define (TRT_(MAJOR|MINOR)_ENTERPRISE|NV_TENSORRT_(MAJOR|MINOR)) +[0-9]+")
list(JOIN lines " " lines)
string(REGEX MATCHALL " [0-9]+" numbers "${lines}")
list(GET numbers 0 major)
list(GET numbers 1 minor)
string(STRIP "${major}.${minor}" version)
string(REPLACE " " "" version "${version}")
if(version VERSION_LESS 10.0)
  message(FATAL_ERROR
    "The headers in ${ALIGNSEG_TENSORRT_HEADERS} are TensorRT ${version}; expected 10.0 or newer, for IPluginV3.\n"
    "Give another folder: -DTENSORRT_ROOT=/opt/TensorRT-10.14")
endif()
message(STATUS "TensorRT headers: ${version}, ${ALIGNSEG_TENSORRT_HEADERS}")

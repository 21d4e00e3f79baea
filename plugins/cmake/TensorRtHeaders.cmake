# Sets ALIGNSEG_TENSORRT_HEADERS to the folder of NvInferRuntime.h. A library for one major version of
# TensorRT crashes in another, so the headers follow the TensorRT that will load the library:
#
#   1. those in TENSORRT_ROOT, if that is given
#   2. those of TENSORRT_VERSION; if that is not given, of the Python package that is installed:
#      in the system's folders if they have that major version, else fetched
#   3. without any of these, those in the system's folders
#
# TensorRT's libraries are not needed: they load the plugin.

set(suffixes include include/${CMAKE_LIBRARY_ARCHITECTURE} targets/${CMAKE_SYSTEM_PROCESSOR}-linux-gnu/include)
unset(ALIGNSEG_TENSORRT_HEADERS CACHE)

# Sets `result` to the version of the headers in `folder`, such as 10.14.
function(alignseg_read_version folder result)
  # The macros are named TRT_MAJOR_ENTERPRISE in newer versions, NV_TENSORRT_MAJOR in 10.10 and before.
  file(STRINGS ${folder}/NvInferVersion.h lines
    REGEX "define (TRT_(MAJOR|MINOR)_ENTERPRISE|NV_TENSORRT_(MAJOR|MINOR)) +[0-9]+")
  list(JOIN lines " " lines)
  string(REGEX MATCHALL " [0-9]+" numbers "${lines}")
  list(GET numbers 0 major)
  list(GET numbers 1 minor)
  string(REPLACE " " "" version "${major}.${minor}")
  set(${result} ${version} PARENT_SCOPE)
endfunction()

# Sets `result` to the version of TensorRT that Python imports, or to nothing.
function(alignseg_installed_version result)
  set(${result} "" PARENT_SCOPE)
  find_program(ALIGNSEG_PYTHON NAMES python3 python)
  if(ALIGNSEG_PYTHON)
    execute_process(COMMAND ${ALIGNSEG_PYTHON} -c "import tensorrt; print(tensorrt.__version__)"
      OUTPUT_VARIABLE printed RESULT_VARIABLE status ERROR_QUIET)
    if(status EQUAL 0 AND printed MATCHES "^([0-9]+\\.[0-9]+)")
      set(${result} ${CMAKE_MATCH_1} PARENT_SCOPE)
    endif()
  endif()
endfunction()

# Fetches the newest headers that are not newer than `wanted` and of its major version. Sets `result` to
# their folder, or `reason` to why that failed. Not every version has a tag: 11.4 gets those of 11.1.
function(alignseg_fetch_headers wanted result reason)
  set(${result} "" PARENT_SCOPE)
  find_package(Git QUIET)
  if(NOT Git_FOUND)
    set(${reason} "git is not installed" PARENT_SCOPE)
    return()
  endif()
  string(REGEX MATCH "^[0-9]+" major ${wanted})
  execute_process(COMMAND ${GIT_EXECUTABLE} ls-remote --tags --refs ${TENSORRT_REPOSITORY} "v${major}.*"
    OUTPUT_VARIABLE listed RESULT_VARIABLE status ERROR_VARIABLE failure)
  if(NOT status EQUAL 0)
    set(${reason} "${failure}" PARENT_SCOPE)
    return()
  endif()
  string(REGEX MATCHALL "refs/tags/v[0-9.]+" tags "${listed}")
  set(best "")
  foreach(tag IN LISTS tags)
    string(REPLACE "refs/tags/v" "" version ${tag})
    string(FIND "${version}." "${wanted}." place) # 0 for 10.13.3 if 10.13 is wanted
    if((place EQUAL 0 OR version VERSION_LESS wanted) AND (NOT best OR version VERSION_GREATER best))
      set(best ${version})
    endif()
  endforeach()
  if(NOT best)
    set(${reason} "it has no tag of ${major}.x up to ${wanted}" PARENT_SCOPE)
    return()
  endif()
  set(folder ${CMAKE_BINARY_DIR}/_deps/tensorrt-${best})
  if(NOT EXISTS ${folder}/include/NvInferRuntime.h)
    message(STATUS "Fetching TensorRT's headers of ${best}, for TensorRT ${wanted}, from ${TENSORRT_REPOSITORY}")
    file(REMOVE_RECURSE ${folder})
    # FetchContent would check out the whole repository; include/ alone is 1 MB.
    execute_process(
      COMMAND ${GIT_EXECUTABLE} -c advice.detachedHead=false clone --quiet --depth 1 --filter=blob:none --sparse
        --branch v${best} ${TENSORRT_REPOSITORY} ${folder}
      RESULT_VARIABLE status ERROR_VARIABLE failure)
    if(status EQUAL 0)
      execute_process(COMMAND ${GIT_EXECUTABLE} -C ${folder} sparse-checkout set include
        RESULT_VARIABLE status ERROR_VARIABLE failure)
    endif()
  endif()
  if(EXISTS ${folder}/include/NvInferRuntime.h)
    set(${result} ${folder}/include PARENT_SCOPE)
  endif()
  set(${reason} "${failure}" PARENT_SCOPE)
endfunction()

if(TENSORRT_ROOT)
  find_path(ALIGNSEG_TENSORRT_HEADERS NvInferRuntime.h
    PATHS ${TENSORRT_ROOT} PATH_SUFFIXES ${suffixes} NO_DEFAULT_PATH)
  if(NOT ALIGNSEG_TENSORRT_HEADERS)
    message(FATAL_ERROR
      "TENSORRT_ROOT is ${TENSORRT_ROOT}, but none of its ${suffixes} contains NvInferRuntime.h.\n"
      "Give the folder that contains TensorRT's include/: -DTENSORRT_ROOT=/opt/TensorRT-10.14")
  endif()
else()
  set(wanted ${TENSORRT_VERSION})
  if(NOT wanted)
    alignseg_installed_version(wanted)
  endif()
  find_path(ALIGNSEG_TENSORRT_HEADERS NvInferRuntime.h
    PATHS /usr/local/tensorrt /usr/local/TensorRT /usr/src/tensorrt /opt/tensorrt PATH_SUFFIXES ${suffixes})
  if(ALIGNSEG_TENSORRT_HEADERS AND wanted)
    alignseg_read_version(${ALIGNSEG_TENSORRT_HEADERS} found)
    string(REGEX MATCH "^[0-9]+" wanted_major ${wanted})
    if(NOT found MATCHES "^${wanted_major}\\.")
      message(STATUS "The headers in ${ALIGNSEG_TENSORRT_HEADERS} are of ${found}; ${wanted} is wanted")
      unset(ALIGNSEG_TENSORRT_HEADERS CACHE)
    endif()
  endif()
  if(NOT ALIGNSEG_TENSORRT_HEADERS AND NOT wanted)
    message(FATAL_ERROR
      "TensorRT was not found: TENSORRT_ROOT is not given, the system's folders have no NvInferRuntime.h, and "
      "python3 cannot import tensorrt.\n"
      "Give TensorRT's folder: -DTENSORRT_ROOT=/opt/TensorRT-10.14\n"
      "or the version that will load the library: -DTENSORRT_VERSION=10.3\n"
      "or build only the kernels: -DALIGNSEG_BUILD_TENSORRT=OFF")
  endif()
  if(NOT ALIGNSEG_TENSORRT_HEADERS)
    alignseg_fetch_headers(${wanted} fetched reason)
    if(NOT fetched)
      message(FATAL_ERROR
        "The headers of TensorRT ${wanted} cannot be fetched from ${TENSORRT_REPOSITORY}: ${reason}\n"
        "Give TensorRT's folder: -DTENSORRT_ROOT=/opt/TensorRT-10.14\n"
        "or build only the kernels: -DALIGNSEG_BUILD_TENSORRT=OFF")
    endif()
    set(ALIGNSEG_TENSORRT_HEADERS ${fetched} CACHE PATH "Folder of NvInferRuntime.h" FORCE)
  endif()
endif()

alignseg_read_version(${ALIGNSEG_TENSORRT_HEADERS} version)
if(version VERSION_LESS 10.0)
  message(FATAL_ERROR
    "The headers in ${ALIGNSEG_TENSORRT_HEADERS} are TensorRT ${version}; expected 10.0 or newer, for IPluginV3.\n"
    "Give another folder: -DTENSORRT_ROOT=/opt/TensorRT-10.14")
endif()
message(STATUS "TensorRT headers: ${version}, ${ALIGNSEG_TENSORRT_HEADERS}")

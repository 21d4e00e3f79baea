// What `segment` reads and writes: the facts of the engine, the image, and the labels.

#ifndef ALIGNSEG_CONSUMER_FILES_H
#define ALIGNSEG_CONSUMER_FILES_H

#include <array>
#include <cstdint>
#include <stdexcept>
#include <string>
#include <vector>

//! An error that says what was seen, what was expected, and what to type.
class Failure : public std::runtime_error
{
public:
    Failure(std::string const& problem, std::string const& expected, std::string const& fix);
};

//! The failure for an engine that this program does not take. `form` is the output that it should be built with;
//! it is empty where the engine is not what its facts say.
Failure unfit(std::string const& seen, std::string const& form = "");

struct Size
{
    int64_t height;
    int64_t width;

    std::string text() const; //!< HEIGHTxWIDTH
};

struct Image
{
    Size size;
    std::vector<uint8_t> bgr; //!< (height, width, 3)
};

//! The facts in ENGINE.json that this program needs.
struct Facts
{
    int64_t classes;
    std::vector<std::string> names; //!< of the labels
    int64_t unnamed;                //!< label that stands for no class; -1 if there is none
    std::array<float, 3> mean;      //!< of the input's channels, in grey levels 0..255
    std::array<float, 3> std;       //!< likewise
    bool swap;                      //!< whether the input's channels are RGB; otherwise they are BGR
    bool returnsLabels;             //!< labels (1, H, W) of the input's size; otherwise logits (1, C, h, w)
    bool needsPlugins;              //!< plugins that the engine does not contain
    bool hasCode;                   //!< whether the engine contains code for the host
    std::string tensorrt;           //!< version that built the engine
    Size least;                     //!< input that the engine takes
    Size most;                      //!< likewise

    //! Returns the size of the network's input for an image of a size, where `asked` is HEIGHTxWIDTH or empty.
    Size inputSize(Size image, std::string const& asked) const;

    //! Returns a text with the share of each class that is there.
    std::string shares(std::vector<uint16_t> const& labels) const;
};

bool exists(std::string const& path);

//! Returns the folder of a file, with a slash at its end; empty for the working folder.
std::string folderOf(std::string const& path);

std::string readFile(std::string const& path, std::string const& what);

Facts readFacts(std::string const& path);

//! Reads a PPM file of 8 bits.
Image readImage(std::string const& path);

//! Writes a PGM file, with 16 bits where a label may be above 255.
void writeLabels(std::string const& path, std::vector<uint16_t> const& labels, Size size, int64_t largest);

#endif // ALIGNSEG_CONSUMER_FILES_H
